"""Results of several methods from their predictions of the same test events, or from metrics CSVs, with errors.

A method is what its runs are called without their ending -sSEED. docs/results_with_errors.md explains the numbers.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax, logsumexp

from puffin.errors import InputError, nearest, not_a_file, plural
from puffin.metrics.bootstrap import Number, RankedScores, Result, mean_and_spread, results_of_methods
from puffin.metrics.missing import missing_of_classes, not_finite
from puffin.metrics.weights import weighted_average
from puffin.tables import read_records
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


def read_metrics(paths: Iterable[Path], columns: Sequence[str], only: Collection[str] = ()) -> list[Result]:
    """Average the rows of metrics CSVs over the seeds of each tagger and test set.

    The last row of a run counts. columns: to read; without any, those of COLUMNS that are in the tables; only: names of
    runs, without any all runs."""
    runs: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        if not path.is_file():
            raise InputError(f"{not_a_file(path)}. Pass a table such as log/NAME.Best.metrics.csv.")
        runs |= {(row["prefix"], row.get("evaluated", "")): row for row in read_records(path)}
    runs = {key: row for key, row in runs.items() if not only or key[0] in only}
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


def evaluate(
    jets: Jets,
    signal: int,
    efficiencies: Sequence[float],
    reference: str = "",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[list[Result], list[str]]:
    """Compute the results of all taggers from the same resamples, and notes on numbers that are missing or uncertain.

    signal: class number of the signal; efficiencies: signal efficiencies of the background rejections; the others: see
    `results_of_methods`."""
    metrics = ["accuracy", "AUC", *(f"BgRejectionAt{e:g}" for e in efficiencies)]
    is_signal = jets.target == signal
    reasons = missing_of_classes(is_signal.astype(np.int64), jets.weights, 2, ("background", "signal"))
    notes = [f"no AUC and no rejection: {reasons['AUC']}"] if "AUC" in reasons else []
    if not len(jets.target):
        nothing = dict.fromkeys(metrics, Number(math.nan))
        return [Result(name, len(group), nothing) for name, group in jets.scores.items()], notes
    for name, group in jets.scores.items():
        bad = [text for scores in group if (text := not_finite(scores, "class scores"))]
        if bad:
            raise InputError(f"{name}: {bad[0]}")
    statistics = {name: TaggerNumbers(jets, group, signal, efficiencies) for name, group in jets.scores.items()}
    if not reasons and jets.weights is None:
        for name, statistic in statistics.items():
            notes += few_background_jets(name, statistic.ranked, efficiencies)
    results = results_of_methods(statistics, metrics, is_signal, reference, level, resamples, seed)
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


# -- text ------------------------------------------------------------------------------------------------------------


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
