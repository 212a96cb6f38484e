"""Intervals from the bootstrap, against simulations with known values and a permutation test."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from puffin.metrics.bootstrap import RankedScores, interval, mean_and_spread, resampled, results_of_methods

SEPARATION = 1.5  # of the Gaussian scores of signal and background, in standard deviations


def jets(rng, background, signal, taggers=1):
    """Gaussian scores (T, N) of several taggers, half of whose variance is common, and whether a jet is signal (N,)."""
    is_signal = np.arange(background + signal) >= background
    common, own = rng.normal(size=len(is_signal)), rng.normal(size=(taggers, len(is_signal)))
    return (common + own) / np.sqrt(2) + SEPARATION * is_signal, is_signal


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_numbers(weighted, ties):
    """AUC and rejections are those of all points of scikit-learn's ROC curve; a resample is that of repeated jets."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        (scores,), is_signal = jets(rng, 60, 50)
        scores = scores.round(1) if ties else scores
        times = rng.integers(0, 3, len(scores)).astype(float)
        weights = rng.uniform(size=len(scores)) if weighted else None
        found = RankedScores(scores, is_signal, weights)(times)
        repeated = np.repeat(np.arange(len(scores)), times.astype(int))
        chosen = None if weights is None else weights[repeated]
        true, ranked = is_signal[repeated], scores[repeated]
        assert found[0] == pytest.approx(roc_auc_score(true, ranked, sample_weight=chosen))
        background, signal, _ = roc_curve(true, ranked, sample_weight=chosen, drop_intermediate=False)
        for rejection, efficiency in zip(found[1:], (0.3, 0.5), strict=True):
            distance = np.abs(signal - efficiency)
            nearest = [signal[i] for i in np.flatnonzero(distance < distance.min() + 1e-9)]  # two by a coincidence
            points = [background[np.flatnonzero(signal == s)[0]] or background[background > 0][0] for s in nearest]
            assert min(abs(rejection * point - 1) for point in points) < 1e-9


def test_one_class():
    """Without signal, or without weights of it, nothing is a number."""
    assert np.isnan(RankedScores(np.arange(3.0), np.zeros(3, bool))(np.ones(3))).all()
    is_signal = np.array([True, False, False])
    assert np.isnan(RankedScores(np.arange(3.0), is_signal, np.array([0.0, 1, 1]))(np.ones(3))).all()


def test_coverage():
    """80% intervals hold the true AUC and rejections in 80% of 250 simulated test sets, within 3 standard deviations.

    Breaks if resamples are larger or smaller than the sample, or if signal alone is resampled."""
    rng, level, number = np.random.default_rng(1), 0.8, 250
    passing = norm.sf(norm.isf([0.3, 0.5]) + SEPARATION)
    true = np.array([norm.cdf(SEPARATION / np.sqrt(2)), *(1 / passing)])
    held = np.zeros(3)
    for _ in range(number):
        (scores,), is_signal = jets(rng, 900, 300)
        low, high = interval(
            resampled(RankedScores(scores, is_signal), is_signal, 100, seed=int(rng.integers(99))), level
        )
        held += (low <= true) & (true <= high)
    assert np.abs(held / number - level) == pytest.approx(0, abs=3 * np.sqrt(level * (1 - level) / number) + 0.01)


def test_paired_difference_against_permutations():
    """Two taggers of the same quality: the width of the bootstrap of the difference is that of a permutation test.

    The test exchanges the scores of the two taggers for random jets. Unpaired resamples are 1.4 times as wide."""
    (first, second), is_signal = jets(np.random.default_rng(2), 1500, 1000, taggers=2)
    statistics = [RankedScores(scores, is_signal) for scores in (first, second)]

    def paired(times):
        return np.diff([statistic(times)[0] for statistic in statistics])[0]

    width = resampled(paired, is_signal, 400).std()
    rng, permuted = np.random.default_rng(3), []
    once = np.ones(len(first))
    for _ in range(400):
        exchanged = rng.random(len(first)) < 0.5
        pair = np.where(exchanged, second, first), np.where(exchanged, first, second)
        permuted.append(np.diff([RankedScores(scores, is_signal)(once)[0] for scores in pair])[0])
    assert width == pytest.approx(np.std(permuted), rel=0.12)
    unpaired = np.hypot(*(resampled(lambda times, s=s: s(times)[0], is_signal, 400).std() for s in statistics))
    assert unpaired > 1.3 * width


def test_results():
    """Means over seeds, spreads, differences and ratios; a method against itself differs by exactly nothing."""
    rng = np.random.default_rng(4)
    scores, is_signal = jets(rng, 200, 100, taggers=3)
    seeds = [RankedScores(each, is_signal) for each in scores]

    def both(times):
        return np.stack([seed(times) for seed in seeds[:2]])

    statistics = {"a": both, "b": lambda times: seeds[2](times)[None], "same": both}
    a, b, same = results_of_methods(statistics, ["AUC", "R3", "R5"], is_signal, "a", resamples=50)
    values = both(np.ones(300))[:, 0]
    assert (a.seeds, b.seeds) == (2, 1) and not a.differences
    assert a.numbers["AUC"][:2] == pytest.approx((values.mean(), values.std(ddof=1)))
    assert np.isnan(b.numbers["AUC"].spread)
    difference, ratio = b.differences["R3"], b.ratios["R3"]
    assert difference.value == pytest.approx(b.numbers["R3"].value - a.numbers["R3"].value)
    assert ratio.value == pytest.approx(b.numbers["R3"].value / a.numbers["R3"].value)
    assert difference.low < difference.value < difference.high and ratio.low < ratio.value < ratio.high
    assert all((n.value, n.low, n.high) == (0, 0, 0) for n in same.differences.values())
    assert np.isnan(mean_and_spread(np.ones((1, 2)))[1]).all()
