#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Make one table of the results of jet taggers or segmentations, with errors, from predictions or metrics CSVs.

    python3 tools/results.py predict/top-s1.best.test.pt predict/top-s2.best.test.pt predict/small-s*.best.test.pt
    python3 tools/results.py log/top.Best.metrics.csv

Names that differ only in their ending -sSEED are one method: its number is the mean over the seeds, and ± the standard
deviation of one training. From predictions of the same test events the tool also computes bootstrap intervals, the
differences to --reference, for which the same events are drawn for both methods, and for jets with --ensemble the
average of the class probabilities of all seeds. docs/results_with_errors.md explains the numbers.
"""

import argparse
import csv
import math
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer, number


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="predictions (.pt, .h5), or metrics CSVs (.csv)")
    add("--reference", default="", metavar="NAME", help="method with which the others are compared")
    add("--ensemble", action="store_true", help="also average the class probabilities of the seeds of each tagger")
    add("--signal", type=integer(0), metavar="C", help="class number of the signal (default: 1 of two classes)")
    efficiency = number(above=0, below=1)
    text = "signal efficiencies of the background rejections (default: 0.3 0.5)"
    add("--efficiencies", nargs="+", type=efficiency, default=[0.3, 0.5], metavar="S", help=text)
    add("--level", type=efficiency, default=0.95, metavar="P", help="level of the intervals (default: %(default)s)")
    add("--resamples", type=integer(2), default=1000, metavar="R", help="bootstrap samples (default: %(default)s)")
    add("--seed", type=integer(0), default=0, metavar="N", help="seed of the bootstrap (default: %(default)s)")
    add("--columns", nargs="+", default=[], metavar="NAME", help="columns of metrics CSVs (default: the usual ones)")
    add("--csv", type=Path, metavar="OUT", help="also write the numbers to a CSV file")
    add("--latex", type=Path, metavar="OUT", help="also write the table for LaTeX")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # --help and bad flags are answered before the imports that take seconds
    explain_missing_packages()
    parse_arguments()

import numpy as np

from puffin.errors import InputError, nearest, plural
from puffin.files import whole_file
from puffin.metrics.bootstrap import Number, Result, results_of_methods
from puffin.metrics.segmentation import macro_f1_of_seeds
from puffin.report.results import by_method, decimals, ensembles, evaluate, read_jets, read_metrics, shown
from puffin.runs.entry import run_script
from puffin.tasks.point_predictions import is_point_predictions, read_methods

# -- tables ----------------------------------------------------------------------------------------------------------


def in_latex(number: Number) -> str:
    """Return a number for LaTeX: the value, the spread over seeds, and the distances to the ends of its interval."""
    if math.isnan(number.value):
        return "--"
    form = f".{decimals(number)}f"
    spread = "" if math.isnan(number.spread) else rf" \pm {number.spread:{form}}"
    up, down = number.high - number.value, number.value - number.low
    bounds = "" if math.isnan(up) else rf"\,{{}}^{{+{up:{form}}}}_{{-{down:{form}}}}"
    return f"${number.value:{form}}{spread}{bounds}$"


def markdown(results: Sequence[Result], reference: str = "") -> str:
    """Make the table of the numbers, and that of the differences to the reference."""
    metrics = list(results[0].numbers)
    rows = [["method", "seeds", *metrics]]
    rows += [[r.method, str(r.seeds), *(shown(r.numbers[m]) for m in metrics)] for r in results]
    tables = [rows]
    compared = [r for r in results if r.differences]
    if compared:
        further = [[f"minus {reference}", *metrics]]
        further += [[r.method, *(shown(r.differences[m], "+") for m in metrics)] for r in compared]
        ratios = [[f"divided by {reference}", *metrics]]
        ratios += [[r.method, *(shown(r.ratios[m]) for m in metrics)] for r in compared]
        tables += [further, ratios]
    return "\n\n".join(
        "\n".join(f"| {' | '.join(row)} |" for row in [table[0], ["---"] * len(table[0]), *table[1:]])
        for table in tables
    )


def latex(results: Sequence[Result]) -> str:
    """Make the table of the numbers for LaTeX, without packages."""
    metrics = list(results[0].numbers)
    rows = [["method", "seeds", *metrics]]
    rows += [[r.method, str(r.seeds), *(in_latex(r.numbers[m]) for m in metrics)] for r in results]
    lines = [" & ".join(cell if "$" in cell else re.sub(r"([_%&#])", r"\\\1", cell) for cell in row) for row in rows]
    body = " \\\\\n".join([lines[0] + r" \\ \hline" + "\n" + lines[1], *lines[2:]])
    return f"\\begin{{tabular}}{{l{'r' * (1 + len(metrics))}}}\n{body} \\\\\n\\end{{tabular}}\n"


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write a line for each tagger and metric: the number, and its difference and ratio to the reference."""
    unknown = Number(math.nan)
    header = ["method", "seeds", "metric", *Number._fields]
    header += [f"{kind}{end}" for kind in ("difference", "ratio") for end in ("", "_low", "_high")]
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for r in results:
            for metric, found in r.numbers.items():
                compared = [kind.get(metric, unknown) for kind in (r.differences, r.ratios)]
                cells = [*found, *(value for n in compared for value in (n.value, n.low, n.high))]
                writer.writerow([r.method, r.seeds, metric, *("" if math.isnan(v) else f"{v:.8g}" for v in cells)])


# -- command ---------------------------------------------------------------------------------------------------------


def results_of(args: argparse.Namespace) -> list[Result]:
    """Read the files and compute the results; print what they are of. InputError for flags that do not fit."""
    tables = [path.suffix == ".csv" for path in args.files]
    if all(tables):
        if args.reference or args.ensemble:
            raise InputError("--reference and --ensemble need predictions, not metrics CSVs")
        return read_metrics(args.files, args.columns)
    if any(tables):
        raise InputError("expected either predictions or metrics CSVs, got both; give the tool one kind at a time")
    if any(map(is_point_predictions, args.files)):
        return results_of_points(args)
    jets = read_jets(args.files)
    if args.ensemble:
        jets.scores.update(ensembles(jets.scores))
    check_reference(args.reference, jets.scores)
    classes = next(iter(jets.scores.values()))[0].shape[1]
    if args.signal is None and classes > 2:
        raise InputError(f"the taggers have {classes} classes; choose the signal with --signal 0 to {classes - 1}")
    args.signal = 1 if args.signal is None else args.signal
    if args.signal >= classes:
        raise InputError(f"--signal {args.signal}: expected 0 to {classes - 1}")
    signal = int((jets.target == args.signal).sum())
    print(
        f"{plural(len(jets.target), 'jet')}, {signal} of them signal (class {args.signal}). In brackets: "
        f"{100 * args.level:g}% intervals from {args.resamples} resamples of these jets."
    )
    results, notes = evaluate(
        jets, args.signal, args.efficiencies, args.reference, args.level, args.resamples, args.seed
    )
    for note in notes:
        print(f"note: {note}")
    return results


def results_of_points(args: argparse.Namespace) -> list[Result]:
    """Compute the macro F1 of segmentations from the predicted classes of the points of each event."""
    if args.ensemble:
        raise InputError("--ensemble needs predictions of jets; those of points hold classes of one network")
    methods = read_methods(by_method(args.files))
    check_reference(args.reference, methods)
    events = next(iter(methods.values())).shape[1]
    print(
        f"{plural(events, 'event')}. In brackets: {100 * args.level:g}% intervals from {args.resamples} resamples of "
        "these events."
    )
    statistics = {name: macro_f1_of_seeds(confusions) for name, confusions in methods.items()}
    return results_of_methods(
        statistics, ["f1_macro"], np.zeros(events), args.reference, args.level, args.resamples, args.seed
    )


def check_reference(reference: str, methods: Collection[str]) -> None:
    """Raise InputError if the reference is given and is none of the methods."""
    if reference and reference not in methods:
        known = ", ".join(methods)
        raise InputError(f"--reference {reference}: no such method{nearest(reference, methods)}; choose from {known}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the files."""
    args = parse_arguments(arguments)
    results = results_of(args)
    if any(result.seeds > 1 for result in results):
        print("±: standard deviation over the seeds.")
    print(f"\n{markdown(results, args.reference)}")
    if args.csv:
        write_csv(args.csv, results)
    if args.latex:
        with whole_file(args.latex) as temporary:
            temporary.write_text(latex(results), encoding="utf-8")


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
