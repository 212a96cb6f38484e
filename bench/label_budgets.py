"""Measure the F1 of segmentation against the number of labelled events.

    python3 bench/label_budgets.py --pretrained model/cloud_best.pt --budgets 100 1000 --seeds 1 2 3 --datadir DIR
    python3 bench/label_budgets.py ... --methods baseline fft -- --cpu --threads 1 --num-step 600 --valid-every 100

The benchmark trains every combination of method, number of events and seed, and prints a table: mean and standard
deviation over the seeds of the F1 on the test events (validation events if there are no test events), with the
weights of the best epoch. tools/plot_label_budgets.py plots the table. Flags after -- are passed on to
train_segmentation.py. The method `baseline` is hand-made features and boosted trees (bench/points_baseline.py), on the
same events; `scratch` has the network of the pretrained checkpoint, with random weights. The training events of a run
are a subset that the seed selects. Runs are named STUDY-METHOD-BUDGET-sSEED.

To resume after an interruption, give the same command again: runs with a row in log/STUDY.Best.metrics.csv are
skipped, and a run that has started continues from its checkpoint. Do not use --num-valid and --num-test for results
to report, because the seed selects these subsets too.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import train_segmentation
from bench import points_baseline
from bench.studies import add_study_arguments, check_budgets, finished, paths_of
from puffin.plots.label_budgets import METHODS, markdown, read_runs, summarize
from puffin.runs.clouds import take_pretrained
from puffin.runs.entry import run_script
from puffin.settings.clouds import CloudDataSettings, PointSegmentationSettings
from puffin.settings.flags import parse
from puffin.settings.parser import OneLineParser

FLAGS = {"scratch": ["--scratch"]} | {method: ["--finetune", method] for method in ("peft", "lora", "fft")}


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the flags of this benchmark; return them, and the flags for the script."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pretrained", required=True, metavar="FILE", help="checkpoint of a masked autoencoder")
    add_study_arguments(parser, (100, 1000, 10000))
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=["baseline", "scratch", "peft", "fft"],
        help="ways of training to compare (default: baseline scratch peft fft)",
    )
    return parser.parse_args(arguments[:split]), arguments[split + 1 :]


def data_settings(args: argparse.Namespace, further: list[str]) -> CloudDataSettings:
    """Return which events and points the networks see; the pretrained checkpoint may choose the energy threshold."""
    flags = parse(PointSegmentationSettings, "", [*further, "--pretrained", args.pretrained, "--datadir", args.datadir])
    return take_pretrained(flags)[0].settings().data


def main(arguments: list[str]) -> None:
    """Train the runs that are missing, then print the table."""
    args, further = parse_arguments(arguments)
    data = data_settings(args, further)
    check_budgets(args.budgets, data)
    table, events = paths_of(args.workdir, args.study).table("best"), points_baseline.Events()
    runs = [(method, budget, seed) for budget in args.budgets for seed in args.seeds for method in args.methods]
    for number, (method, budget, seed) in enumerate(runs, 1):
        prefix = f"{args.study}-{method}-{budget}-s{seed}"
        paths = paths_of(args.workdir, prefix)
        if prefix in finished(table):
            continue
        print(f"run {number} of {len(runs)}: {prefix}", flush=True)
        if method == "baseline":
            points_baseline.measure(paths, replace(data, num_train=budget), seed, events=events)
            continue
        own = ["--prefix", prefix, "--num-train", str(budget), "--seed", str(seed)]
        own += ["--pretrained", args.pretrained, *FLAGS[method], "--datadir", args.datadir, "--workdir", args.workdir]
        resume = ["--load"] if paths.checkpoint.exists() else []
        train_segmentation.main(["--predict", "test", "--no-plot", *further, *own, *resume])
    wanted = {f"{args.study}-{method}-{budget}-s{seed}" for method, budget, seed in runs}
    print(markdown(summarize(read_runs([table], wanted=wanted))))


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
