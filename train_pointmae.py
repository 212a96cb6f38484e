#!/usr/bin/env python3
"""Pretrain Point-MAE or PoLAr-MAE on LArTPC point clouds, or evaluate a pretrained network.

Example (sample events, a small network, minutes on a laptop):
  python3 train_pointmae.py --yaml config/pointmae_quick.yaml --datadir data/sample_data/lartpc --prefix cloud --cpu
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.cli.arguments import Formatter, add_run_arguments, add_training_arguments
from puffin.cli.clouds import (
    Pictures,
    add_cloud_data_arguments,
    add_cloud_network_arguments,
    add_pretraining_arguments,
    check_probe,
    make_probe,
    open_clouds,
    point_mae_config,
    take_network_from,
    train_with_pictures,
)
from puffin.models.point_mae import PointMAE
from puffin.plots.curves import draw_pretraining
from puffin.runs.run import Run, run_script
from puffin.settings.presets import parse_arguments
from puffin.tasks.masked_modelling import MaskedModelling


def make_parser() -> argparse.ArgumentParser:
    """All flags of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=Formatter)
    add_run_arguments(parser, prefix="pointmae")
    add_cloud_data_arguments(parser)
    add_cloud_network_arguments(parser)
    add_pretraining_arguments(parser)
    add_training_arguments(parser, tuple(MaskedModelling.metric_directions))
    # the published settings, but for the length of the run
    parser.set_defaults(
        lr_init=1e-4,
        lr_start=8.6e-6,
        lr_final=8.6e-6,
        lr_decay_type="cos",
        weight_decay=0.05,
        warmup=1,
        cooldown=0,
        clip=3.0,
        batch_size=32,
        num_epoch=20,
    )
    return parser


def main(argv=None, report=None) -> list[dict]:
    """Parse the flags and run; returns one dict of numbers per epoch.  report(all so far) is called after each."""
    args, given = parse_arguments(make_parser, argv)
    run = Run(args)
    start = run.starting_point()
    if start is not None:
        checkpoint = take_network_from(args, given, *start)
        start = (checkpoint, start[1])
        if args.load and not run.evaluating:
            run.resume_settings(given, *start)
    check_probe(args)
    model = PointMAE(point_mae_config(args)).to(run.device, run.dtype)
    datasets = open_clouds(run)
    probe = make_probe(run, given, datasets)
    too_small = {split: dataset.too_small for split, dataset in datasets.items()}
    task = MaskedModelling(model, args.seed, args.rotate, probe, args.probe_every, args.predict_format, too_small)
    return train_with_pictures(run, task, datasets, start, draw_pretraining, Pictures(run, model, datasets), report)


if __name__ == "__main__":
    run_script(main)
