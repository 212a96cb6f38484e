"""Temperature, calibration error, thresholds and efficiencies against samples with known values."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm

from puffin.metrics.calibration import BINS, efficiency, fit_temperature, reliability, thresholds, wilson_interval


def overconfident(number=20_000, classes=3, factor=2.0):
    """Class scores (N, K) that are `factor` times those of the true probabilities, and classes drawn from these."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(number, classes)) * 1.5
    target = (softmax(logits, 1).cumsum(1) > rng.random((number, 1))).argmax(1)
    return logits * factor, target


@pytest.mark.parametrize("factor", [0.3, 2.0])
def test_temperature(factor):
    """The temperature is the factor by which the scores are too large, and the calibration error vanishes with it."""
    logits, target = overconfident(factor=factor)
    temperature = fit_temperature(logits, target)
    assert temperature == pytest.approx(factor, rel=0.03)
    assert reliability(softmax(logits / temperature, 1), target).error < 0.01
    assert reliability(softmax(logits, 1), target).error > 0.08


def test_weights():
    """Weights count like repeated events, of any size."""
    logits, target = overconfident(2000)
    weights = np.random.default_rng(1).integers(0, 3, 2000).astype(float)
    repeated = np.repeat(np.arange(2000), weights.astype(int))
    temperature = fit_temperature(logits, target, weights * 1e-35)
    assert temperature == pytest.approx(fit_temperature(logits[repeated], target[repeated]), rel=1e-4)
    weighted = reliability(softmax(logits, 1), target, weights * 1e-35)
    for a, b in zip(weighted, reliability(softmax(logits[repeated], 1), target[repeated]), strict=True):
        assert a == pytest.approx(b, nan_ok=True)


def test_bins():
    """Two bins by hand: 0.95 with all events right, and 0.65 with half of them; without events nothing is known."""
    probability = np.array([[0.95, 0.05]] * 2 + [[0.35, 0.65]] * 2)
    bins = reliability(probability, np.array([0, 0, 1, 0]))
    filled = np.flatnonzero(bins.fraction)
    assert filled.tolist() == [int(0.65 * BINS), int(0.95 * BINS)]
    assert bins.accuracy[filled].tolist() == [0.5, 1.0] and bins.error == pytest.approx(0.5 * 0.15 + 0.5 * 0.05)
    assert np.isnan(reliability(np.zeros((0, 2)), np.zeros(0, int)).error)


def test_thresholds():
    """The fraction of the signal above a threshold is the efficiency; background does not matter."""
    rng = np.random.default_rng(2)
    is_signal = rng.random(50_000) < 0.3
    scores = rng.normal(size=50_000) - 5 * ~is_signal
    found = thresholds(scores, is_signal, np.array([0.1, 0.5]))
    assert [(scores[is_signal] > t).mean() for t in found] == pytest.approx([0.1, 0.5], abs=1e-3)
    assert found == pytest.approx(norm.isf([0.1, 0.5]), abs=0.05)
    assert thresholds(scores, is_signal, np.array([0.5]), np.ones(50_000)) == pytest.approx([found[1]], abs=1e-3)


def test_efficiency():
    """The error is the binomial one for many events, not 0 where nothing passes, and that of weights is larger."""
    passing = np.arange(10_000) < 2000
    assert efficiency(passing) == pytest.approx((0.2, np.sqrt(0.2 * 0.8 / 10_000)), rel=1e-3)
    assert efficiency(passing, np.full(10_000, 7.0)) == pytest.approx(efficiency(passing))
    weights = np.random.default_rng(3).exponential(size=10_000)
    assert efficiency(passing, weights)[1] == pytest.approx(np.sqrt(2) * efficiency(passing)[1], rel=0.05)
    nothing, error = efficiency(np.zeros(10, bool))
    assert nothing == 0 and error > 0.01
    assert np.isnan(efficiency(np.zeros(0, bool))).all()
    low, high = wilson_interval(0.0, 10)
    assert low == pytest.approx(0) and high == pytest.approx(1 / 11)
