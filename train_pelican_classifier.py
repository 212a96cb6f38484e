#!/usr/bin/env python3
"""Train or evaluate a PELICAN jet classifier.

Example (11k parameters, real simulated jets, a few minutes on a laptop):
  python3 train_pelican_classifier.py --yaml config/11k.yaml --datadir data/sample_data/run12 --prefix top --cpu
"""

import argparse

from src.cli.arguments import (
    Formatter,
    add_jet_data_arguments,
    add_pelican_arguments,
    add_run_arguments,
    add_training_arguments,
)
from src.cli.pelican import pelican_config, take_network_from
from src.cli.presets import parse_arguments
from src.cli.run import Run, load_weights, run_script, train_and_evaluate
from src.data.jets import JetSelection, open_splits
from src.errors import InputError
from src.models.pelican import PelicanClassifier
from src.plots.jets import draw_classification
from src.tasks.jets import JetClassification
from src.tasks.symmetry import report_symmetries


def make_parser() -> argparse.ArgumentParser:
    """All flags of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=Formatter)
    add_run_arguments(parser, prefix="classifier")
    add_jet_data_arguments(parser, target="is_signal")
    add_pelican_arguments(parser)
    add_training_arguments(parser, tuple(JetClassification.metric_directions))
    return parser


def main(argv=None) -> None:
    """Parse the flags and run."""
    args, given = parse_arguments(make_parser, argv)
    run = Run(args)
    start = run.starting_point()
    if start is not None:
        take_network_from(args, given, *start)
        if args.load and not run.evaluating:
            run.resume_settings(given, *start)
    config = pelican_config(args)
    model = PelicanClassifier(config).to(run.device, run.dtype)
    task = JetClassification(model)
    if args.test:
        if start is not None:
            load_weights(model, *start)
        report_symmetries(model, args.seed, trained=start is not None)
        return

    selection = JetSelection(args.target, args.nobj, args.scale, args.RAMdataset)
    wanted = {"test": args.num_test}
    if not run.evaluating:
        wanted = {"train": args.num_train, "valid": args.num_valid, **wanted}
    datasets = open_splits(args.datadir, selection, wanted, args.seed, args.testfile)
    for split in ("test",) if run.evaluating else ("train",):
        if split not in datasets:
            raise InputError(f"{args.datadir}: no {split} file (*.h5 with '{split}' in its name)")
    for split, dataset in datasets.items():
        task.check_labels(dataset.labels(), split)
    train_and_evaluate(run, task, datasets, start, draw_classification)


if __name__ == "__main__":
    run_script(main)
