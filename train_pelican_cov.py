#!/usr/bin/env python3
"""Train or evaluate a PELICAN regressor of four-momenta.

Example (the momenta of tops from simulated jets; jets without a top are left out):
  python3 train_pelican_cov.py --yaml config/11k.yaml --datadir data/sample_data/run12 --target truth_Pmu --prefix momentum --cpu
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.cli.arguments import (
    Formatter,
    add_jet_data_arguments,
    add_pelican_arguments,
    add_regression_arguments,
    add_run_arguments,
    add_training_arguments,
    parse_terms,
)
from puffin.cli.jets import momentum_keys, run_jets
from puffin.models.pelican import PelicanRegressor
from puffin.plots.jets import draw_regression
from puffin.runs.run import run_script
from puffin.settings.obsolete import add_published_arguments
from puffin.settings.presets import parse_arguments
from puffin.tasks.regression import MomentumRegression


def make_parser() -> argparse.ArgumentParser:
    """All flags of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=Formatter)
    add_run_arguments(parser, prefix="regressor")
    add_jet_data_arguments(
        parser, target="truth_Pmu", target_help="key of the true momentum [GeV], or several separated by commas"
    )
    add_pelican_arguments(parser)
    add_regression_arguments(parser)
    add_training_arguments(parser, MomentumRegression.metric_directions)
    add_published_arguments(parser)
    return parser


def make_task(args: argparse.Namespace, model: PelicanRegressor, datasets: dict) -> MomentumRegression:
    """The loss of the flags, for as many true momenta as the network predicts."""
    task = MomentumRegression(model, parse_terms(args.loss), args.predict_format)
    for split, dataset in datasets.items():
        task.check_targets(dataset.labels(), split)
    return task


def main(argv=None, report=None) -> list[dict]:
    """Parse the flags and run; returns one dict of numbers per epoch.  report(all so far) is called after each."""
    args, given = parse_arguments(make_parser, argv)
    if "," in args.target and "num_targets" not in given:
        args.num_targets = args.target.count(",") + 1
    return run_jets(args, given, PelicanRegressor, momentum_keys, make_task, draw_regression, report)


if __name__ == "__main__":
    run_script(main)
