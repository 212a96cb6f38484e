"""F1 against the number of labels: trains every combination of method, number of events and seed, and prints a table.

    python3 bench/label_budgets.py --pretrained model/cloud_best.pt --budgets 100 1000 --seeds 1 2 3 --datadir DIR
    python3 bench/label_budgets.py ... --methods scratch fft -- --cpu --threads 1 --num-step 600 --valid-every 100

Flags after -- go to train_segmentation.py as they are.  `scratch` has the network of the pretrained checkpoint with random
weights; budgets are the seed's subsets of the training events.  Runs are called STUDY-METHOD-BUDGET-sSEED.  To go on after a
stop, give the same command: runs whose row is in log/STUDY.Best.metrics.csv are skipped, one that has begun continues
where it was.  The table holds mean and standard deviation over the seeds of the F1 on the test events (validation events
where there are no others) with the best epoch's weights; tools/plot_label_budgets.py draws it.  --num-valid and --num-test
are subsets of the seed too, so leave them out for numbers to report.
"""

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import train_segmentation
from puffin.data.pilarnet import CloudDataset, CloudSelection, find_split_files
from puffin.errors import InputError
from puffin.plots.label_budgets import METHODS, markdown, read_runs, summarize
from puffin.runs.entry import run_script
from puffin.settings.presets import parse_arguments

FLAGS = {"scratch": ["--scratch"]} | {method: ["--finetune", method] for method in METHODS if method != "scratch"}


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our flags, and those of the script."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", required=True, metavar="FILE", help="masked autoencoder")
    parser.add_argument("--datadir", default="data/sample_data/lartpc", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["scratch", "peft", "fft"], help="default: %(default)s"
    )
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=int,
        default=[100, 1000, 10000],
        metavar="N",
        help="training events (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[1, 2, 3],
        metavar="S",
        help="of subset, weights and order (default: %(default)s)",
    )
    parser.add_argument(
        "--study", default="budgets", metavar="NAME", help="name of the table, without dashes (default: %(default)s)"
    )
    parser.add_argument("--workdir", default="./", metavar="DIR", help="folder of log/, model/ and predict/")
    args = parser.parse_args(arguments[:split])
    if "-" in args.study:
        raise InputError(
            f"--study: expected a name without dashes, as tables are called after what is before the first, got {args.study!r}"
        )
    return args, arguments[split + 1 :]


def check_budgets(args: argparse.Namespace, further: list[str]) -> None:
    """InputError for more events than there are: a training would take all of them, and the table name another number."""
    flags, _ = parse_arguments(train_segmentation.make_parser, [*further, "--datadir", args.datadir])
    selection = CloudSelection(min_points=flags.min_points, skip_bad=flags.skip_bad)
    events = len(CloudDataset(find_split_files(args.datadir, "train"), selection, max(1, flags.num_workers)))
    if not 0 < min(args.budgets) <= max(args.budgets) <= events:
        raise InputError(
            f"--budgets: expected 1 to {events}, the training events with {flags.min_points} points in {args.datadir}, got {args.budgets}"
        )


def finished(table: Path) -> set[str]:
    """Prefixes of the runs in a table."""
    if not table.exists():
        return set()
    with open(table, newline="") as file:
        return {row["prefix"] for row in csv.DictReader(file)}


def main(arguments: list[str]) -> None:
    """Train what is missing, then print."""
    args, further = parse(arguments)
    check_budgets(args, further)
    work = Path(args.workdir)
    table = work / f"log/{args.study}.Best.metrics.csv"
    runs = [(method, budget, seed) for budget in args.budgets for seed in args.seeds for method in args.methods]
    for number, (method, budget, seed) in enumerate(runs, 1):
        prefix = f"{args.study}-{method}-{budget}-s{seed}"
        if prefix in finished(table):
            continue
        print(f"run {number} of {len(runs)}: {prefix}", flush=True)
        own = [
            "--prefix",
            prefix,
            "--num-train",
            str(budget),
            "--seed",
            str(seed),
            "--pretrained",
            args.pretrained,
            *FLAGS[method],
        ]
        begun = ["--load"] if (work / f"model/{prefix}.pt").exists() else []
        train_segmentation.main(
            ["--no-predict", "--no-plot", *further, *own, *begun, "--datadir", args.datadir, "--workdir", args.workdir]
        )
    wanted = {f"{args.study}-{method}-{budget}-s{seed}" for method, budget, seed in runs}
    print(markdown(summarize(read_runs([table], wanted=wanted))))


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
