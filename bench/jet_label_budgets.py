"""Measure jet taggers against the number of labelled jets, beside hand-made observables and boosted trees.

    python3 bench/jet_label_budgets.py --budgets 1000 4000 --methods baseline config/finetune_48k.yaml -- --cpu
    python3 bench/jet_label_budgets.py ... --testfile data/many/test.h5 --simulated data/pretraining/tops.h5
    python3 bench/jet_label_budgets.py ... --methods config/scratch_48k.yaml --vary bench/jet_variations.yaml

A method is a settings file of train_pelican_classifier.py, and is called as the file without .yaml, or `baseline`
(bench/jets_baseline.py); with --simulated the second baseline `simulated` also gets the labels of that file, as it is
fair if a network was pretrained on them. --vary FILE adds variations of the last settings file: a method
SETTINGS-NAME for each line `NAME: FLAGS` of FILE.

The benchmark trains every combination of method, number of labels and seed. The training jets of a run are a subset
that the seed selects, the same for all methods. Then it prints a table for each number of labels, as tools/results.py
computes it: mean and spread over the seeds, intervals, and the paired differences to the first method. Runs are named
STUDY-METHOD-BUDGET-sSEED.

Flags after -- are passed on to train_pelican_classifier.py; for another number of epochs with other budgets, call the
benchmark once for each budget. Without validation jets in --datadir the last weights are evaluated, so no further
labels are used. The jets of --testfile are evaluated with the best weights only; test jets in --datadir are then
evaluated too, but not shown.

To resume after an interruption, give the same command again: runs with predictions are skipped, and a run that has
started continues from its checkpoint. Choose another --study after a change of a settings file or of flags, as runs
are told apart by their names alone.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import train_pelican_classifier
from bench import jets_baseline
from bench.studies import add_study_arguments, paths_of, prefix_of, split_arguments
from puffin.data.jet_blocks import JetSelection
from puffin.data.jets import open_splits
from puffin.data.targets import ClassLabels
from puffin.errors import InputError
from puffin.report.results import evaluate, read_jets
from puffin.runs.entry import run_script
from puffin.runs.paths import name_of_events
from puffin.settings.parser import OneLineParser
from puffin.settings.presets import read_yaml
from puffin.settings.types import integer
from tools.results import markdown

BASELINES = ("baseline", "simulated")


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the flags of this benchmark; return them, and the flags for the script."""
    own, further = split_arguments(arguments)
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_study_arguments(parser, (1000, 4000), "data/sample_data/run12", "jets")
    text = "`baseline`, `simulated`, or settings files (default: baseline config/finetune_48k.yaml)"
    add("--methods", nargs="+", default=["baseline", "config/finetune_48k.yaml"], metavar="M", help=text)
    add("--vary", default="", metavar="FILE", help="variations of the last settings file, as bench/jet_variations.yaml")
    add("--target", default="is_signal", metavar="KEY", help="key of the class labels (default: %(default)s)")
    add("--signal", type=integer(0), default=1, metavar="C", help="class number of the signal (default: %(default)s)")
    add("--num-classes", type=integer(2), default=2, metavar="K", help="number of classes (default: %(default)s)")
    add("--testfile", default="", metavar="FILE", help="test file, instead of that in --datadir")
    text = "further labelled jets for the baseline `simulated`, which is then measured too"
    add("--simulated", default="", metavar="FILE", help=text)
    add(
        "-j", "--jobs", type=integer(1), default=1, metavar="N", help="processes of the baseline (default: %(default)s)"
    )
    args = parser.parse_args(own)
    if args.simulated and "simulated" not in args.methods:
        args.methods.insert(args.methods.index("baseline") + 1 if "baseline" in args.methods else 0, "simulated")
    for method in args.methods:
        if method not in BASELINES and not Path(method).is_file():
            raise InputError(f"--methods {method}: neither `baseline`, `simulated` nor a settings file")
    if args.vary and args.methods[-1] in BASELINES:
        raise InputError("--vary: needs a settings file as the last of --methods")
    if "simulated" in args.methods and not args.simulated:
        raise InputError("--methods simulated: needs --simulated FILE")
    return args, further


def methods_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the flags of each method for train_pelican_classifier.py, by its name; [] for a baseline."""
    methods: dict[str, list[str]] = {}
    for method in args.methods:
        name = Path(method).stem
        if name in methods or name in BASELINES and name != method:
            raise InputError(f"--methods {method}: two methods are called {name}; rename the settings file")
        methods[name] = [] if method in BASELINES else ["--yaml", method]
    if not args.vary:
        return methods
    varied = read_yaml(args.vary, "file of variations", "bench/jet_variations.yaml", "NAME: FLAGS")
    base = Path(args.methods[-1])
    for variation, (flags, source) in varied.items():
        # named after the settings file too: runs that vary another one in the same study must not be taken for these
        name = f"{base.stem}-{variation}"
        if not isinstance(flags, str) or name in methods:
            raise InputError(
                f"{source}: {variation}: expected flags, such as --clip 1, and a name that no other method has"
            )
        methods[name] = ["--yaml", str(base), *shlex.split(flags)]
    return methods


def run_of(args: argparse.Namespace, method: str, budget: int, seed: int) -> tuple[str, Path]:
    """Return the name of a run, and the file of its predictions for the test jets."""
    prefix = prefix_of(args.study, method, budget, seed)
    events = [args.testfile] if args.testfile else []
    stem = paths_of(args.workdir, prefix).predictions("best", "test", name_of_events(events))
    return prefix, stem.with_name(f"{stem.name}.pt")


def measure(
    args: argparse.Namespace, further: list[str], method: str, flags: list[str], budget: int, seed: int
) -> None:
    """Train and test one run, unless that has been done. flags: those of the method."""
    prefix, predictions = run_of(args, method, budget, seed)
    if predictions.exists():
        return
    print(prefix, flush=True)
    common = ["--target", args.target, "--seed", str(seed), "--prefix", prefix, "--workdir", args.workdir]
    training = ["--datadir", args.datadir, "--num-train", str(budget)]
    test = ["--testfile", args.testfile] if args.testfile else []
    if method in BASELINES:
        more = ["--simulated", args.simulated] if method == "simulated" else []
        jets_baseline.main([*common, *training, *test, *more, "--jobs", str(args.jobs)])
        return
    common += ["--num-classes", str(args.num_classes), "--no-plot", "--predict", "test"]
    checkpoint, best = paths_of(args.workdir, prefix).checkpoint, paths_of(args.workdir, prefix).best
    resume = ["--load"] if checkpoint.exists() else []
    train_pelican_classifier.main([*further, *flags, *common, *training, *resume])
    if test:
        train_pelican_classifier.main(["--eval", "--loadfile", str(best), *further, *common, *test])


def table(args: argparse.Namespace, methods: Iterable[str], budget: int) -> str:
    """Make the tables of one number of labels, with the differences to the first method that has predictions."""
    files = [run_of(args, method, budget, seed)[1] for method in methods for seed in args.seeds]
    jets = read_jets([path for path in files if path.exists()])
    results, notes = evaluate(jets, args.signal, (0.3, 0.5), reference=next(iter(jets.scores)))
    title = f"{budget} labels, {len(jets.target)} test jets"
    return "\n\n".join([title, markdown(results, results[0].method), *(f"note: {note}" for note in notes)])


def main(arguments: list[str]) -> None:
    """Train the runs that are missing, then print the tables."""
    args, further = parse_arguments(arguments)
    methods = methods_of(args)
    selection = JetSelection(ClassLabels(args.target), in_memory=False)
    datasets = open_splits(args.datadir, selection, {"train": -1, "test": -1}, 0, args.testfile)
    jets_baseline.check_splits(datasets, args.datadir)
    labelled = len(datasets["train"])
    if max(args.budgets) > labelled:
        raise InputError(f"--budgets: expected at most {labelled}, the number of training jets, got {args.budgets}")
    for budget in args.budgets:
        for seed in args.seeds:
            for method, flags in methods.items():
                measure(args, further, method, flags, budget, seed)
    print("\n\n".join(table(args, methods, budget) for budget in args.budgets))


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
