"""Measure the F1 of segmentation against the number of labelled events.

    python3 bench/label_budgets.py --pretrained model/cloud_best.pt --budgets 100 1000 --seeds 1 2 3 --datadir DIR
    python3 bench/label_budgets.py ... --methods scratch fft -- --cpu --threads 1 --num-step 600 --valid-every 100

The benchmark trains every combination of method, number of events and seed, and prints a table: mean and standard
deviation over the seeds of the F1 on the test events (validation events if there are no test events), with the
weights of the best epoch. tools/plot_label_budgets.py plots the table. Flags after -- are passed on to
train_segmentation.py. The method `scratch` has the network of the pretrained checkpoint, with random weights. The
training events of a run are a subset that the seed selects. Runs are named STUDY-METHOD-BUDGET-sSEED.

To resume after an interruption, give the same command again: runs with a row in log/STUDY.Best.metrics.csv are
skipped, and a run that has started continues from its checkpoint. Do not use --num-valid and --num-test for results
to report, because the seed selects these subsets too.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import train_segmentation
from puffin.data.pilarnet import CloudDataset, CloudSelection
from puffin.data.splits import files_by_folder
from puffin.errors import InputError
from puffin.plots.label_budgets import METHODS, markdown, read_runs, summarize
from puffin.runs.entry import run_script
from puffin.settings.clouds import PointSegmentationSettings
from puffin.settings.flags import parse
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer
from puffin.tables import read_records

FLAGS = {"scratch": ["--scratch"]} | {method: ["--finetune", method] for method in METHODS if method != "scratch"}


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the flags of this benchmark; return them, and the flags for the script."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, sample = parser.add_argument, "data/sample_data/lartpc"
    add("--pretrained", required=True, metavar="FILE", help="checkpoint of a masked autoencoder")
    add("--datadir", default=sample, metavar="DIR", help="folder of LArTPC events (default: %(default)s)")
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=["scratch", "peft", "fft"],
        help="ways of training to compare (default: scratch peft fft)",
    )
    add(
        "--budgets",
        nargs="+",
        type=integer(1),
        default=[100, 1000, 10000],
        metavar="N",
        help="numbers of training events (default: 100 1000 10000)",
    )
    add(
        "--seeds",
        nargs="+",
        type=integer(0),
        default=[1, 2, 3],
        metavar="S",
        help="seeds of the subset of events, the weights and the order of events (default: 1 2 3)",
    )
    add("--study", default="budgets", metavar="NAME", help="name of the table, without dashes (default: %(default)s)")
    add("--workdir", default="./", metavar="DIR", help="folder of log/, model/ and predict/ (default: %(default)s)")
    args = parser.parse_args(arguments[:split])
    if "-" in args.study:
        reason = "the name of a table is the prefix of its runs up to the first dash"
        raise InputError(f"--study: expected a name without dashes ({reason}), got {args.study!r}")
    return args, arguments[split + 1 :]


def check_budgets(args: argparse.Namespace, further: list[str]) -> None:
    """Raise InputError if a budget is larger than the data set: the run would use fewer events than its name says."""
    data = parse(PointSegmentationSettings, "", [*further, "--datadir", args.datadir]).settings().data
    selection = CloudSelection(min_points=data.min_points, skip_bad=data.skip_bad)
    events = len(CloudDataset(files_by_folder(args.datadir)["train"], selection, max(1, data.num_workers)))
    if max(args.budgets) > events:
        available = f"the number of training events with at least {data.min_points} points in {args.datadir}"
        raise InputError(f"--budgets: expected 1 to {events}, {available}, got {args.budgets}")


def finished(table: Path) -> set[str]:
    """Return the prefixes of the runs in a table."""
    if not table.exists():
        return set()
    return {row["prefix"] for row in read_records(table)}


def main(arguments: list[str]) -> None:
    """Train the runs that are missing, then print the table."""
    args, further = parse_arguments(arguments)
    check_budgets(args, further)
    work = Path(args.workdir)
    table = work / f"log/{args.study}.Best.metrics.csv"
    runs = [(method, budget, seed) for budget in args.budgets for seed in args.seeds for method in args.methods]
    for number, (method, budget, seed) in enumerate(runs, 1):
        prefix = f"{args.study}-{method}-{budget}-s{seed}"
        if prefix in finished(table):
            continue
        print(f"run {number} of {len(runs)}: {prefix}", flush=True)
        own = ["--prefix", prefix, "--num-train", str(budget), "--seed", str(seed)]
        own += ["--pretrained", args.pretrained, *FLAGS[method], "--datadir", args.datadir, "--workdir", args.workdir]
        resume = ["--load"] if (work / f"model/{prefix}.pt").exists() else []
        train_segmentation.main(["--no-predict", "--no-plot", *further, *own, *resume])
    wanted = {f"{args.study}-{method}-{budget}-s{seed}" for method, budget, seed in runs}
    print(markdown(summarize(read_runs([table], wanted=wanted))))


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
