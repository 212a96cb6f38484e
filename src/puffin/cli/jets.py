"""What the two jet scripts share: from flags to data, network and run."""

import argparse
from collections.abc import Callable

import torch

from puffin.cli.arguments import SPLIT_NAMES, parse_numbers
from puffin.cli.pelican import pelican_config, take_loss_from, take_network_from
from puffin.data.jets import JetSelection, open_splits
from puffin.data.scalars import chosen_scalars
from puffin.data.targets import ClassLabels, Momenta
from puffin.errors import InputError
from puffin.models.pelican import PelicanBackbone
from puffin.runs.run import Run, load_weights, train_and_evaluate
from puffin.tasks.symmetry import report_symmetries


def run_jets(
    args: argparse.Namespace,
    given: set[str],
    network: type[PelicanBackbone],
    target: Callable[[argparse.Namespace], ClassLabels | Momenta],
    make_task: Callable,
    draw: Callable,
    report: Callable[[list[dict]], None] | None = None,
) -> list[dict]:
    """Do what the flags say: train, evaluate, or report symmetries.  Returns one dict of numbers per epoch trained.

    target(args): what to learn; make_task(args, model, datasets): the task; draw: the picture of a finished run;
    report(all epochs so far): called after each epoch."""
    run = Run(args)
    start = run.starting_point(best_if_there=args.test)
    if start is not None:
        take_network_from(args, given, *start)
        if run.evaluating:
            take_loss_from(args, given, *start)
        elif args.load:
            run.resume_settings(given, *start)
    scalars = chosen_scalars(args.dataset, args.read_pid, names(args.scalars_keys))
    config = pelican_config(args, sum(s.width for s in scalars))
    model = network(config).to(run.device, run.dtype)
    if args.test:
        if start is not None:
            load_weights(model, *start)
        print(f"network: {'a new one, with random weights' if start is None else start[1]}")
        report_symmetries(model, args.seed, trained=start is not None)
        return []
    weights_needed = not run.evaluating or "weights_key" in given
    selection = JetSelection(
        target(args), args.nobj, args.scale, args.RAMdataset, scalars, args.weights_key, weights_needed
    )
    splits = SPLIT_NAMES
    if run.evaluating:
        splits = [s for s in SPLIT_NAMES if s == "test" or s in args.predict and not args.testfile]
    wanted = {split: getattr(args, f"num_{split}") for split in splits}
    datasets = open_splits(args.datadir, selection, wanted, args.seed, args.testfile)
    needed = "test" if run.evaluating else "train"
    if needed not in datasets:
        raise InputError(f"{args.datadir}: no {needed} file (*.h5 with '{needed}' in its name)")
    return train_and_evaluate(run, make_task(args, model, datasets), datasets, start, draw, report)


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def momentum_keys(args: argparse.Namespace) -> Momenta:
    """The momenta of --target, numbered if one key is given for several targets."""
    keys = names(args.target)
    if len(keys) == 1 and args.num_targets > 1:
        keys = [f"{keys[0]}_{k}" for k in range(args.num_targets)]
    return Momenta(tuple(keys))


def balanced_weights(labels: torch.Tensor, num_classes: int) -> str:
    """Numbers for --class-weights, exactly: inversely to how many training events (N,) each class has, 0 for one without."""
    counts = torch.bincount(labels, minlength=num_classes)[:num_classes].double()
    weights = torch.where(counts > 0, len(labels) / (num_classes * counts.clamp_min(1)), 0)
    return ",".join(map(repr, weights.tolist()))


def weights_of_classes(wish: str, num_classes: int) -> torch.Tensor | None:
    """(K,) float64 from --class-weights."""
    if wish == "none":
        return None
    weights = parse_numbers(wish)
    if len(weights) != num_classes:
        raise InputError(f"--class-weights: expected {num_classes} numbers, one for each class, got {len(weights)}")
    return torch.tensor(weights, dtype=torch.float64)
