"""Statistical errors of metrics by the bootstrap: test events are drawn with replacement.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sec. 8.3 and 13.3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

# from how often each of N events is counted, (N,) float64, to numbers of any shape
Statistic = Callable[[np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """The ends of an interval; numbers, or arrays of one shape."""

    low: np.ndarray
    high: np.ndarray


def resampled(statistic: Statistic, strata: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Compute a statistic of resamples of the events, (R, ...).

    strata (N,): the class of each event, or equal numbers. Each resample has as many events of each class as the
    original. Numbers of several methods from one statistic are paired: they are from the same events."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]

    def draw() -> np.ndarray:
        times = np.zeros(len(strata))
        for rows in members:
            times[rows] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
        return times

    return np.stack([statistic(draw()) for _ in range(resamples)])


def interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Return the central interval that holds a fraction `level` of the resampled values (R, ...)."""
    return Interval(*np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0))


class Number(NamedTuple):
    """A number, its standard deviation over seeds, and the ends of its interval; nan for what is not known."""

    value: float
    spread: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Result:
    """The numbers of a method by metric; differences and ratios: to the reference, empty for the reference itself."""

    method: str
    seeds: int
    numbers: dict[str, Number]
    differences: dict[str, Number] = field(default_factory=dict)
    ratios: dict[str, Number] = field(default_factory=dict)


def mean_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean over the seeds of values (S, ...), and their standard deviation, nan for one seed."""
    several = len(values) > 1
    return values.mean(0), values.std(0, ddof=1) if several else np.full(values.shape[1:], math.nan)


def results_of_methods(
    statistics: Mapping[str, Statistic],
    metrics: Sequence[str],
    strata: np.ndarray,
    reference: str = "",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Compute the results of several methods from the same resamples of at least one event.

    statistics: by method, each from counts (N,) to the numbers of its seeds (S, M); metrics: names of the M numbers;
    strata (N,), see `resampled`; reference: the method with which the others are compared. An interval covers the
    choice of the test events, not that of the seeds, over which its statistic is averaged."""

    def means(times: np.ndarray) -> np.ndarray:
        return np.stack([statistic(times).mean(0) for statistic in statistics.values()])

    def named(value: np.ndarray, drawn: np.ndarray, spread: np.ndarray) -> dict[str, Number]:
        columns = np.stack([value, spread, *interval(drawn, level)], 1).tolist()
        return {name: Number(*column) for name, column in zip(metrics, columns, strict=True)}

    once = np.ones(len(strata))
    of_seeds = [statistic(once) for statistic in statistics.values()]
    values, spreads = zip(*map(mean_and_spread, of_seeds), strict=True)
    drawn = resampled(means, strata, resamples, seed)
    results, unknown = [], np.full(len(metrics), math.nan)
    for t, method in enumerate(statistics):
        compared: tuple[dict[str, Number], ...] = ()
        if reference and method != reference:
            r = list(statistics).index(reference)
            differences = named(values[t] - values[r], drawn[:, t] - drawn[:, r], unknown)
            with np.errstate(divide="ignore", invalid="ignore"):  # an F1 can be 0
                ratios = named(values[t] / values[r], drawn[:, t] / drawn[:, r], unknown)
            compared = (differences, ratios)
        numbers = named(values[t], drawn[:, t], spreads[t])
        results.append(Result(method, len(of_seeds[t]), numbers, *compared))
    return results


class RankedScores:
    """A statistic of N jets: AUC, and background rejection at each signal efficiency, (1 + E,) float64.

    The scores are sorted once, so that a resample takes a time proportional to N. The rejection is that of the ROC
    point nearest to the signal efficiency. All points count here; `classification.roc` drops those in the middle of a
    straight line, which can change a rejection by a background jet. All numbers are nan if the counted jets are of one
    class."""

    def __init__(
        self,
        scores: np.ndarray,
        is_signal: np.ndarray,
        weights: np.ndarray | None = None,
        efficiencies: Sequence[float] = (0.3, 0.5),
    ):
        """scores (N,), high for signal; is_signal (N,) bool; weights (N,): of the jets, or None."""
        distinct, rank = np.unique(-scores, return_inverse=True)
        self.rows = tuple(np.flatnonzero(is_signal == kind) for kind in (False, True))
        self.ranks = tuple(rank[rows] for rows in self.rows)
        self.distinct, self.weights, self.efficiencies = len(distinct), weights, efficiencies

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """Compute the numbers if jet e is counted times[e] times."""
        above = self._above(times)
        (background, signal), totals = above, above[:, -1]
        if not totals.all():
            return np.full(1 + len(self.efficiencies), np.nan)
        # each signal jet beats the background below it, and half of that with its own score
        below = totals[0] - (background[1:] + background[:-1]) / 2
        auc = np.diff(signal) @ below / totals.prod()
        return np.array([auc, *(totals[0] / background[self._point(above, e)] for e in self.efficiencies)])

    def passing(self) -> np.ndarray:
        """Count the background jets, or sum their weights, that pass at each signal efficiency, (E,)."""
        above = self._above(np.ones(sum(map(len, self.rows))))
        return np.array([above[0, self._point(above, e)] for e in self.efficiencies])

    def _above(self, times: np.ndarray) -> np.ndarray:
        """Sum the background and signal jets above each threshold, (2, thresholds + 1), in falling order of these."""
        counts = times if self.weights is None else times * self.weights
        above = np.zeros((2, self.distinct + 1))
        for row, jets, rank in zip(above, self.rows, self.ranks, strict=True):
            np.cumsum(np.bincount(rank, counts[jets], minlength=self.distinct), out=row[1:])
        return above

    def _point(self, above: np.ndarray, efficiency: float) -> int:
        """Return the ROC point nearest to a signal efficiency, or the first one with background, if that is later."""
        background, signal = above
        wanted = efficiency * signal[-1]
        after = int(np.searchsorted(signal, wanted))
        if after and wanted - signal[after - 1] <= signal[after] - wanted:
            after = int(np.searchsorted(signal, signal[after - 1]))
        return after if background[after] > 0 else int(np.searchsorted(background, 0, side="right"))
