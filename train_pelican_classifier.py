#!/usr/bin/env python3
"""Train or evaluate a PELICAN jet classifier.

Example (11k parameters, real simulated jets, a few minutes on a laptop):
  python3 train_pelican_classifier.py --yaml config/11k.yaml --datadir data/sample_data/run12 --prefix top --cpu
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.cli.arguments import (
    Formatter,
    add_classification_arguments,
    add_jet_data_arguments,
    add_pelican_arguments,
    add_run_arguments,
    add_training_arguments,
)
from puffin.cli.jets import balanced_weights, run_jets, weights_of_classes
from puffin.data.targets import ClassLabels
from puffin.models.pelican import PelicanClassifier
from puffin.plots.jets import draw_classification
from puffin.runs.run import run_script
from puffin.settings.obsolete import add_published_arguments
from puffin.settings.presets import parse_arguments
from puffin.tasks.classification import JetClassification


def make_parser() -> argparse.ArgumentParser:
    """All flags of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=Formatter)
    add_run_arguments(parser, prefix="classifier")
    add_jet_data_arguments(parser, target="is_signal", target_help="key of the labels: class numbers or one-hot")
    add_pelican_arguments(parser)
    add_classification_arguments(parser)
    add_training_arguments(parser, tuple(JetClassification.metric_directions))
    add_published_arguments(parser)
    return parser


def make_task(args: argparse.Namespace, model: PelicanClassifier, datasets: dict) -> JetClassification:
    """The loss of the flags, for labels that fit the network; balanced weights become numbers, which the checkpoints hold."""
    if args.class_weights == "balanced":
        args.class_weights = balanced_weights(datasets["train"].labels(), args.num_classes)
    task = JetClassification(model, weights_of_classes(args.class_weights, args.num_classes), args.predict_format)
    for split, dataset in datasets.items():
        task.check_labels(dataset.labels(), split)
    return task


def main(argv=None, report=None) -> list[dict]:
    """Parse the flags and run; returns one dict of numbers per epoch.  report(all so far) is called after each."""
    args, given = parse_arguments(make_parser, argv)
    return run_jets(
        args, given, PelicanClassifier, lambda a: ClassLabels(a.target), make_task, draw_classification, report
    )


if __name__ == "__main__":
    run_script(main)
