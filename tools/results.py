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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
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
from scipy.special import log_softmax, logsumexp

from puffin.errors import InputError, nearest, not_a_file, plural
from puffin.files import whole_file
from puffin.metrics.bootstrap import Number, RankedScores, Result, mean_and_spread, results_of_methods
from puffin.metrics.missing import missing_of_classes, not_finite
from puffin.metrics.segmentation import macro_f1_of_seeds
from puffin.metrics.weights import weighted_average
from puffin.runs.entry import run_script
from puffin.tables import read_records
from puffin.tasks.point_predictions import is_point_predictions, read_methods
from puffin.tasks.saving import read_predictions

# columns of metrics CSVs that are shown unless --columns names others: of classifiers, segmentations, regressors
COLUMNS = (
    *("accuracy", "AUC", "BgRejectionAt0.3", "BgRejectionAt0.5"),
    *("f1_macro", "iou_macro"),
    *("dPsi", "dR", "dpT", "dm"),
)
FEW = 10  # background jets: with fewer above a threshold, percentiles of the bootstrap are too narrow
# arrays of predictions that do not depend on the tagger
_OF_JETS = {"targets": "the true classes", "row": "the rows", "weights": "the weights"}
_WEIGHTS = re.compile(r"\.(best|final)\.(train|valid|test)")


@dataclass(frozen=True)
class Jets:
    """The jets that several taggers have classified.

    target (N,) int64: class numbers; weights (N,), or None; scores: by tagger, the logarithms of the class
    probabilities (N, K) of each seed."""

    target: np.ndarray
    weights: np.ndarray | None
    scores: dict[str, list[np.ndarray]]


# -- reading ---------------------------------------------------------------------------------------------------------


def without_seed(name: str) -> str:
    """Return the name of a run, or of its predictions, without its ending -sSEED."""
    return re.sub(r"-s\d+(?=\.(?:best|final)\.|$)", "", name)


def by_method(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files of predictions by their names without seeds, and without weights and split if these are all equal."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(without_seed(path.stem), []).append(path)
    short = [_WEIGHTS.sub("", name) for name in found]
    names = short if len(set(short)) == len(short) else list(found)  # of best and final weights: both are shown
    return dict(zip(names, found.values(), strict=True))


def read_jets(paths: Iterable[Path]) -> Jets:
    """Read predictions of the same jets; InputError if the files hold other jets, or other numbers of classes."""
    found: dict[Path, np.ndarray] = {}
    first, reference = None, {}
    for path in paths:
        content = read_predictions(path)
        logits = content["predict"].astype(np.float64)
        if logits.ndim != 2:
            raise InputError(f"{path}: expected class scores (N, K), found an array {logits.shape}; use a classifier")
        jets = {name: content[name] for name in _OF_JETS if name in content}
        first, reference = first or path, reference or jets
        for name, what in _OF_JETS.items():
            if {name} <= jets.keys() & reference.keys() and not np.array_equal(jets[name], reference[name]):
                raise InputError(
                    f"{path}: has {what} of other jets than {first}; compare taggers on the same "
                    "jets (--num-test selects jets that depend on --seed)"
                )
        found[path] = log_softmax(logits, axis=1)
    classes = {scores.shape[1] for scores in found.values()}
    if len(classes) > 1:
        raise InputError(f"the files have {' and '.join(map(str, sorted(classes)))} classes; compare equal numbers")
    scores = {name: [found[path] for path in group] for name, group in by_method(found).items()}
    return Jets(reference["targets"].astype(np.int64), reference.get("weights"), scores)


def read_metrics(paths: Iterable[Path], columns: Sequence[str]) -> list[Result]:
    """Average the rows of metrics CSVs over the seeds of each tagger and test set.

    The last row of a run counts. columns: to read; without any, those of COLUMNS that are in the tables."""
    runs: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        if not path.is_file():
            raise InputError(f"{not_a_file(path)}. Pass a table such as log/NAME.Best.metrics.csv.")
        runs |= {(row["prefix"], row.get("evaluated", "")): row for row in read_records(path)}
    if not runs:
        raise InputError(f"{', '.join(map(str, paths))}: no rows")
    known = dict.fromkeys(name for row in runs.values() for name in row)
    for name in columns:
        if name not in known:
            raise InputError(f"--columns {name}: no such column{nearest(name, known)}")
    several = len({evaluated for _, evaluated in runs}) > 1
    groups: dict[str, list[dict[str, str]]] = {}
    for (prefix, evaluated), row in runs.items():
        where = f" on {evaluated}" if several else ""
        groups.setdefault(without_seed(prefix) + where, []).append(row)
    chosen = columns or [name for name in COLUMNS if name in known]
    return [Result(name, len(rows), {c: _mean_of(rows, c) for c in chosen}) for name, rows in groups.items()]


def _mean_of(rows: Sequence[dict[str, str]], column: str) -> Number:
    texts = [row.get(column, "") for row in rows]
    try:
        values = np.array([float(text) if text else math.nan for text in texts])
    except ValueError as error:
        raise InputError(f"--columns {column}: holds no numbers ({error})") from error
    return Number(*map(float, mean_and_spread(values)))


# -- statistics ------------------------------------------------------------------------------------------------------


class TaggerNumbers:
    """A statistic of a tagger: accuracy, AUC and background rejections of each seed, (S, 2 + E)."""

    def __init__(self, jets: Jets, scores: Sequence[np.ndarray], signal: int, efficiencies: Sequence[float]):
        is_signal = jets.target == signal
        self.weights = jets.weights
        self.correct = [each.argmax(1) == jets.target for each in scores]
        self.ranked = [
            RankedScores(discriminant(each, signal), is_signal, jets.weights, efficiencies) for each in scores
        ]

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """Compute the numbers if jet e is counted times[e] times."""
        counts = times if self.weights is None else times * self.weights
        return np.array(
            [
                [weighted_average(correct, counts), *ranked(times)]
                for correct, ranked in zip(self.correct, self.ranked, strict=True)
            ]
        )


def discriminant(scores: np.ndarray, signal: int) -> np.ndarray:
    """Return the logarithm of the ratio of the probabilities of the signal and of all other classes, (N,).

    scores (N, K): logarithms of the class probabilities."""
    return scores[:, signal] - logsumexp(np.delete(scores, signal, axis=1), axis=1)


def ensembles(scores: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Average the class probabilities of the seeds of each tagger that has several."""
    return {
        f"{name} (ensemble of {len(group)})": [logsumexp(group, axis=0) - math.log(len(group))]
        for name, group in scores.items()
        if len(group) > 1
    }


def evaluate(jets: Jets, args: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Compute the results of all taggers from the same resamples, and notes on numbers that are missing or uncertain.

    args: the flags of this tool."""
    metrics = ["accuracy", "AUC", *(f"BgRejectionAt{e:g}" for e in args.efficiencies)]
    is_signal = jets.target == args.signal
    reasons = missing_of_classes(is_signal.astype(np.int64), jets.weights, 2, ("background", "signal"))
    notes = [f"no AUC and no rejection: {reasons['AUC']}"] if "AUC" in reasons else []
    if not len(jets.target):
        nothing = dict.fromkeys(metrics, Number(math.nan))
        return [Result(name, len(group), nothing) for name, group in jets.scores.items()], notes
    for name, group in jets.scores.items():
        bad = [text for scores in group if (text := not_finite(scores, "class scores"))]
        if bad:
            raise InputError(f"{name}: {bad[0]}")
    statistics = {
        name: TaggerNumbers(jets, group, args.signal, args.efficiencies) for name, group in jets.scores.items()
    }
    if not reasons and jets.weights is None:
        for name, statistic in statistics.items():
            notes += few_background_jets(name, statistic.ranked, args.efficiencies)
    results = results_of_methods(statistics, metrics, is_signal, args.reference, args.level, args.resamples, args.seed)
    return results, notes


def few_background_jets(name: str, ranked: Sequence[RankedScores], efficiencies: Sequence[float]) -> list[str]:
    """Say which rejections rest on so few background jets that their intervals are too narrow."""
    passing = np.min([scores.passing() for scores in ranked], axis=0)
    return [
        f"{name}: BgRejectionAt{efficiency:g} rests on {plural(int(jets), 'background jet')}, and its interval is too "
        "narrow; use more test jets"
        for efficiency, jets in zip(efficiencies, passing, strict=True)
        if jets < FEW
    ]


# -- tables ----------------------------------------------------------------------------------------------------------


def decimals(number: Number) -> int:
    """Return how many decimals to show: two digits of the smallest error, or four significant digits without one."""
    errors = (number.spread, number.high - number.value, number.value - number.low)
    errors = [error for error in errors if error > 0]  # nan is not
    size = min(errors) if errors else abs(number.value) / 100
    return min(max(1 - math.floor(math.log10(size)), 0), 6) if size > 0 and math.isfinite(size) else 4


def shown(number: Number, sign: str = "") -> str:
    """Return a number as text: value ± spread (low to high); sign: "+" to show that of a difference."""
    form = f"{sign}.{decimals(number)}f"
    if math.isnan(number.value):
        return "-"
    spread = "" if math.isnan(number.spread) else f" ± {number.spread:{form.lstrip('+')}}"
    bounds = "" if math.isnan(number.low) else f" ({number.low:{form}} to {number.high:{form}})"
    return f"{number.value:{form}}{spread}{bounds}"


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
    results, notes = evaluate(jets, args)
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
