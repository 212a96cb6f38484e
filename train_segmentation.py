#!/usr/bin/env python3
"""Train a network that gives every point of LArTPC events a class, from a pretrained encoder or from scratch, or evaluate one.

Example (sample events, an encoder of train_pointmae.py, minutes on a laptop):
  python3 train_segmentation.py --yaml config/segmentation_quick.yaml --pretrained model/cloud_best.pt --prefix points --cpu
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.cli.arguments import Formatter, add_run_arguments, add_training_arguments
from puffin.cli.clouds import Pictures, add_cloud_data_arguments, open_clouds, train_with_pictures
from puffin.cli.segmentation import (
    add_segmentation_arguments,
    check_evaluation,
    check_flags,
    load_encoder_,
    make_task,
    segmentation_config,
    take_pretrained,
    take_segmentation_from,
)
from puffin.models.segmentation import Segmentation
from puffin.plots.curves import draw_segmentation
from puffin.runs.run import Run, run_script
from puffin.settings.presets import given_flags, parse_arguments
from puffin.tasks.cloud_pictures import draw_labels
from puffin.tasks.segmentation import PointSegmentation


def make_parser() -> argparse.ArgumentParser:
    """All flags of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=Formatter)
    add_run_arguments(parser, prefix="segmentation")
    add_cloud_data_arguments(parser)
    add_segmentation_arguments(parser)
    add_training_arguments(parser, tuple(PointSegmentation.metric_directions))
    parser.set_defaults(
        lr_init=3e-4,
        lr_start=1e-6,
        lr_final=1e-6,
        lr_decay_type="cos",
        weight_decay=0.05,
        warmup=1,
        cooldown=0,
        clip=3.0,
        batch_size=16,
        num_epoch=20,
        best_by="f1_macro",
        predict_format="h5",
    )
    return parser


def main(argv=None, report=None) -> list[dict]:
    """Parse the flags and run; returns one dict of numbers per epoch.  report(all so far) is called after each."""
    args, given = parse_arguments(make_parser, argv)
    if args.task == "eval":
        check_evaluation(given_flags(make_parser, argv))
    run = Run(args)
    start, encoder = run.starting_point(), None
    if start is not None:
        start = (take_segmentation_from(args, given, *start), start[1])
        if args.load and not run.evaluating:
            run.resume_settings(given, *start)
    if not (args.load or run.evaluating):
        encoder = take_pretrained(args, given)
    check_flags(args)
    model = Segmentation(segmentation_config(args)).to(run.device, run.dtype)
    if encoder is not None:
        load_encoder_(model, encoder, args.pretrained)
    datasets = open_clouds(run)
    task = make_task(run, model, datasets)
    return train_with_pictures(
        run, task, datasets, start, draw_segmentation, Pictures(run, model, datasets, draw_labels), report
    )


if __name__ == "__main__":
    run_script(main)
