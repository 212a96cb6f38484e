"""Measure the F1 of segmentation against the number of labelled events.

    python3 bench/label_budgets.py --pretrained model/cloud_best.pt --budgets 100 1000 --seeds 1 2 3 --datadir DIR
    python3 bench/label_budgets.py ... --methods baseline fft -- --cpu --threads 1 --num-step 600 --valid-every 100
    python3 bench/label_budgets.py --budgets 5 25 100 --datadir DIR -- --yaml config/segmentation_unet.yaml

The benchmark trains every combination of method, number of events and seed, and prints a table: mean and standard
deviation over the seeds of the F1 on the test events (validation events if there are no test events), with the
weights of the best epoch. tools/plot_label_budgets.py plots the table. A second table has the difference to the
baseline, as tools/results.py computes it. Runs are named STUDY-METHOD-BUDGET-sSEED.

The method `baseline` is hand-made features and boosted trees (bench/points_baseline.py), on the same events; `scratch`
has the network of the pretrained checkpoint, or else that of the flags, with random weights. `student` continues the
network before it in the table (fft, or scratch without --pretrained) with the labelled events and the mean of that
network's and the baseline's predictions for all other training events (--pseudo-labels of train_segmentation.py). The
training events of a run are a subset that the seed selects.

Flags after -- are passed on to train_segmentation.py. With --valid-every equal to --num-step, a run is validated only
at its end. So the last weights are evaluated, and no validation labels are used to choose them.

To resume after an interruption, give the same command again: runs with a row in log/STUDY.Best.metrics.csv are
skipped, and a run that has started continues from its checkpoint. Choose another --study after a change of flags, as
runs are told apart by their names alone. Do not use --num-valid and --num-test for results to report, because the seed
selects these subsets too.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import numpy as np

import train_segmentation
from bench import points_baseline
from bench.studies import add_study_arguments, check_budgets, finished, paths_of, prefix_of, split_arguments
from puffin.data.splits import files_by_folder
from puffin.errors import InputError
from puffin.metrics.bootstrap import results_of_methods
from puffin.metrics.segmentation import macro_f1_of_seeds
from puffin.plots.label_budgets import METHODS, markdown, read_runs, summarize
from puffin.runs.clouds import start_segmentation
from puffin.runs.entry import run_script
from puffin.runs.paths import RunPaths, name_of_events
from puffin.settings.clouds import PointSegmentationSettings
from puffin.settings.flags import Flags, parse
from puffin.settings.parser import OneLineParser
from puffin.tasks.point_predictions import PointPredictions, read_methods


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the flags of this benchmark; return them, and the flags for the script."""
    own, further = split_arguments(arguments)
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    text = "checkpoint of a masked autoencoder; only the methods baseline and scratch do without"
    add("--pretrained", default="", metavar="FILE", help=text)
    add_study_arguments(parser, (100, 1000, 10000))
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        help="ways of training to compare (default: baseline and scratch; with --pretrained also fft, and peft with a "
        "transformer); student also measures its teachers",
    )
    return parser.parse_args(own), further


def flags_of(args: argparse.Namespace, further: list[str]) -> Flags:
    """Return the flags that all networks share; the pretrained checkpoint chooses network and energy threshold."""
    pretrained = ["--pretrained", args.pretrained] if args.pretrained else []
    flags = parse(PointSegmentationSettings, "", [*further, *pretrained, "--datadir", args.datadir])
    return start_segmentation(flags)[0].flags


def methods_of(chosen: list[str] | None, flags: Flags) -> list[str]:
    """Return the methods to compare; InputError if the network cannot be trained in one of the chosen ways."""
    possible = ["baseline", "scratch"]
    if flags["pretrained"]:
        possible += ["fft"] if flags["backbone"] == "unet" else ["peft", "lora", "fft"]
    possible.append("student")
    wrong = [method for method in chosen or () if method not in possible]
    if wrong:
        reason = "all weights of a U-Net are trained" if flags["pretrained"] else "needs --pretrained FILE"
        raise InputError(f"--methods {wrong[0]}: {reason}; choose from {', '.join(possible)}")
    if "student" in (chosen or ()):  # it needs its teachers, which come first
        chosen = [method for method in possible if method in (*chosen, "baseline", teacher_of(flags))]
    return chosen or [method for method in possible if method not in ("lora", "student")]


def teacher_of(flags: Flags) -> str:
    """Return the method of the network that labels events for a student, beside the baseline."""
    return "fft" if flags["pretrained"] else "scratch"


def events_to_label(args: argparse.Namespace) -> list[str]:
    """Return the files of all training events, which teachers label for a student."""
    return [str(path) for path in files_by_folder(args.datadir)["train"]]


def student_flags(
    args: argparse.Namespace, further: list[str], flags: Flags, budget: int, seed: int, resuming: bool
) -> list[str]:
    """Return the flags of a student: its teachers' predictions for all training events, and of a new one its start.

    Those of the network are made here. InputError if the baseline was measured without them."""
    events, method = events_to_label(args), teacher_of(flags)
    teacher = paths_of(args.workdir, prefix_of(args.study, method, budget, seed)).best
    own = prefix_of(f"{args.study}_labels", method, budget, seed)  # its row is for a table of its own
    network, baseline = (
        predictions_of(paths_of(args.workdir, prefix), events)
        for prefix in (own, prefix_of(args.study, "baseline", budget, seed))
    )
    if not baseline.is_file():
        raise InputError(f"{baseline}: not found. Choose another --study, so that the baseline is measured again.")
    if not network.is_file():
        evaluation = ["--eval", "--loadfile", str(teacher), "--testfile", *events]
        evaluation += ["--predict", "test", "--no-plot", "--prefix", own, "--workdir", args.workdir]
        train_segmentation.main([*further, *evaluation])
    start = [] if resuming else ["--loadfile", str(teacher)]
    return [*start, "--pseudo-labels", str(network), str(baseline)]


def predictions_of(paths: RunPaths, events: Sequence[str] = ()) -> Path:
    """Return the file with the predictions of a run, with the weights of the best epoch.

    events: files of further events; without them the predictions are those for the test events."""
    return PointPredictions.path(paths.predictions("best", "test", name_of_events(events)))


def against_baseline(args: argparse.Namespace, methods: list[str]) -> str:
    """Make a Markdown table of the differences to the baseline in macro F1; empty without runs to compare.

    A line averages over the seeds for which both methods have predictions."""
    lines = []
    for method, budget in product(methods, args.budgets):
        runs = [[prefix_of(args.study, m, budget, seed) for m in ("baseline", method)] for seed in args.seeds]
        pairs = [tuple(predictions_of(paths_of(args.workdir, prefix)) for prefix in pair) for pair in runs]
        pairs = [pair for pair in pairs if all(path.is_file() for path in pair)]
        if pairs and method != "baseline":
            confusions = read_methods(dict(zip(("baseline", method), zip(*pairs, strict=True), strict=True)))
            statistics = {name: macro_f1_of_seeds(stack) for name, stack in confusions.items()}
            events = np.zeros(confusions[method].shape[1])
            found = results_of_methods(statistics, ["f1"], events, "baseline")[1].differences["f1"]
            interval = f"{found.low:+.3f} to {found.high:+.3f}"
            lines.append(f"| {method} | {budget} | {len(pairs)} | {found.value:+.3f} | {interval} |")
    header = ["| method | labels | seeds | F1 macro above baseline | 95% interval |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(["", *header, *lines]) if lines else ""


def main(arguments: list[str]) -> None:
    """Train the runs that are missing, then print the tables."""
    args, further = parse_arguments(arguments)
    flags = flags_of(args, further)
    methods, data = methods_of(args.methods, flags), flags.settings().data
    check_budgets(args.budgets, data)
    table, events = paths_of(args.workdir, args.study).table("best"), points_baseline.Events()
    runs = [(method, budget, seed) for budget in args.budgets for seed in args.seeds for method in methods]
    for number, (method, budget, seed) in enumerate(runs, 1):
        prefix = prefix_of(args.study, method, budget, seed)
        paths = paths_of(args.workdir, prefix)
        if prefix in finished(table):
            continue
        print(f"run {number} of {len(runs)}: {prefix}", flush=True)
        if method == "baseline":
            label = events_to_label(args) if "student" in methods else ()
            points_baseline.measure(paths, replace(data, num_train=budget), seed, events=events, label=label)
            continue
        own = ["--prefix", prefix, "--num-train", str(budget), "--seed", str(seed)]
        own += ["--datadir", args.datadir, "--workdir", args.workdir]
        resuming = paths.checkpoint.exists()
        if resuming:
            own.append("--load")
        if method == "student":
            own += student_flags(args, further, flags, budget, seed, resuming)
        else:
            own += ["--pretrained", flags["pretrained"]]
            if method == "scratch":
                own.append("--scratch")
            elif flags["backbone"] == "transformer":
                own += ["--finetune", method]
        train_segmentation.main(["--predict", "test", "--no-plot", *further, *own])
    print(markdown(summarize(read_runs([table], wanted={prefix_of(args.study, *run) for run in runs}))))
    print(against_baseline(args, methods))


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
