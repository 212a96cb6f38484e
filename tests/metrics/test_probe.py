"""The linear probes on features with a known result."""

import math

import numpy as np
import pytest

from puffin.metrics.probe import f1, linear_probe, ridge_probe

NAMES = ("a", "b", "c")


def separable(rng, number):
    """Features (number, 200): noise, and one direction for each of three overlapping classes, of which c is rare."""
    labels = rng.random((number, 3)) < (0.5, 0.4, 0.02)
    features = rng.normal(size=(number, 200)) * 0.1
    features[:, :3] += labels * 10.0
    return features, labels


def test_finds_linear_classes():
    """Several classes at once, a rare one too, in more dimensions than are kept. Breaks if components are fitted to
    the test tokens alone, labels are taken as exclusive, or classes are not balanced."""
    rng = np.random.default_rng(0)
    scores = linear_probe(*separable(rng, 2000), *separable(rng, 1000), NAMES)
    assert list(scores) == ["probe_f1_a", "probe_f1_b", "probe_f1_c", "probe_f1_mean"]
    assert min(scores.values()) > 0.98
    assert scores["probe_f1_mean"] == pytest.approx(np.mean([scores[f"probe_f1_{n}"] for n in NAMES]))
    assert scores == linear_probe(*separable(rng2 := np.random.default_rng(0), 2000), *separable(rng2, 1000), NAMES)


def test_finds_nothing_in_noise():
    """Chance: a balanced classifier predicts the class half the time, so F1 is about 2 p 0.5 / (p + 0.5).

    Breaks if labels leak."""
    rng = np.random.default_rng(1)
    (train, y), (test, z) = ((rng.normal(size=(n, 20)), rng.random((n, 1)) < 0.3) for n in (2000, 4000))
    assert linear_probe(train, y, test, z, ("a",))["probe_f1_mean"] == pytest.approx(0.3 / 0.8, abs=0.06)


def test_classes_that_cannot_be_judged():
    """In no training token, in all of them, in no test token: nan, and not in the mean. Breaks if they count as 0."""
    rng = np.random.default_rng(2)
    (train, y), (test, z) = separable(rng, 500), separable(rng, 300)
    y[:, 1], z[:, 2] = True, False
    scores = linear_probe(train, y, test, z, NAMES)
    assert math.isnan(scores["probe_f1_b"]) and math.isnan(scores["probe_f1_c"])
    assert scores["probe_f1_mean"] == scores["probe_f1_a"] > 0.9
    assert math.isnan(linear_probe(train[:0], y[:0], test, z, NAMES)["probe_f1_mean"])


@pytest.mark.filterwarnings("error")
def test_constant_features():
    """The features of a collapsed network: a classifier that never predicts the class, without a warning."""
    y = np.arange(100)[:, None] % 4 == 0
    assert linear_probe(np.ones((100, 8)), y, np.ones((100, 8)), y, ("a",))["probe_f1_mean"] == 0


def test_f1():
    """By hand: TP 1, FP 1, FN 2."""
    predicted, true = np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 1, 1, 0], bool)
    assert f1(predicted, true) == pytest.approx(2 / 5) and f1(predicted[:0], true[:0]) == 0


def test_ridge_finds_linear_numbers():
    """A number that is linear in the features is read, another one is not, in any units. Breaks if features are not
    standardised, or R^2 is that of the training samples."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 20)) * np.geomspace(1e-6, 1e6, 20)
    values = np.stack([1e3 + features[:, 0] * 1e6 + features[:, -1] * 1e-6, rng.normal(size=300)], 1)
    found = ridge_probe(features[:200], values[:200], features[200:], values[200:])
    assert found[0] > 0.999 and -0.3 < found[1] < 0.1
    features[0, 0] = np.inf
    assert np.isnan(ridge_probe(features[:200], values[:200], features[200:], values[200:])).all()
