"""Metrics against hand-made cases and the published run."""

import csv
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from puffin.checkpoints.reading import read_checkpoint
from puffin.metrics.classification import (
    BINARY_COLUMNS,
    Roc,
    classification_metrics,
    columns,
    confusion,
    one_vs_rest,
    probabilities,
    rejection,
)


def test_published_predictions_give_the_published_metrics(run_folder):
    """From the published predictions alone; a change in the choice of the ROC point breaks it."""
    saved = read_checkpoint(run_folder / "ref.best.test.pt")
    with open(run_folder / "ref.Best.metrics.csv") as file:
        reference = next(csv.DictReader(file))
    logits, target = saved["predict"].numpy(), saved["targets"].numpy().astype(int)
    loss = float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(target)), target]))
    metrics = classification_metrics(logits, target, loss)
    assert tuple(metrics) == BINARY_COLUMNS
    for name in BINARY_COLUMNS[:-1]:  # the published table has no calibration error
        assert metrics[name] == pytest.approx(float(reference[name]), rel=1e-5), name


def test_rejection_where_no_background_is_left():
    """At eB = 0 the first point with eB > 0 counts."""
    roc = Roc(np.array([0, 0, 0.1, 1]), np.array([0, 0.3, 0.6, 1]), np.zeros(4))
    assert rejection(roc, 0.3) == (10.0, 0.6)


def test_one_class_only():
    """A test file without background has an accuracy but no ROC."""
    metrics = classification_metrics(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]), 0.5)
    assert metrics["accuracy"] == 0.5 and math.isnan(metrics["AUC"]) and metrics["FN_rate"] == 0.5


def test_multi_class():
    """Every promised column; a perfect class, a class of pure chance, rows of the confusion matrix."""
    rng = np.random.default_rng(0)
    target = np.repeat([0, 1, 2], 400)
    logits = rng.normal(size=(1200, 3))
    logits[target == 0] = [9, 0, 0]
    logits[target != 0, 0] = -9
    metrics = classification_metrics(logits, target, 1.0)
    assert tuple(metrics) == columns(3) and not any(math.isnan(v) for k, v in metrics.items() if "Rejection" not in k)
    assert metrics["AUC_0"] == 1 and metrics["SigEfficiencyAt0.1_0"] == 1 and 0.6 < metrics["AUC_1"] < 0.85
    # one-vs-one: pairs with class 0 are perfect, the other pair is chance
    assert metrics["AUC"] == pytest.approx((1 + 1 + 0.5) / 3, abs=0.03)
    table = confusion(logits, target)
    assert table[0].tolist() == [400, 0, 0] and table.sum(1).tolist() == [400] * 3
    assert metrics["accuracy"] == pytest.approx(np.trace(table) / 1200)


def test_absent_class_of_several():
    """A test file without class 2: the others keep their numbers, what needs it is nan."""
    logits, target = np.random.default_rng(1).normal(size=(60, 3)), np.repeat([0, 1], 30)
    metrics = classification_metrics(logits, target, 1.0)
    assert math.isnan(metrics["AUC"]) and math.isnan(metrics["AUC_2"]) and metrics["AUC_0"] > 0
    assert one_vs_rest(logits, target)[2] is None


@pytest.mark.parametrize("num_classes", [2, 3])
def test_weights_are_repetitions(num_classes):
    """An event of weight 3 counts as three events, in every number."""
    rng = np.random.default_rng(2)
    logits, target = rng.normal(size=(300, num_classes)), rng.integers(0, num_classes, 300)
    logits[np.arange(300), target] += 1
    weights = rng.integers(1, 4, 300)
    weighted = classification_metrics(logits, target, 0.5, weights.astype(float))
    repeated = classification_metrics(np.repeat(logits, weights, 0), np.repeat(target, weights), 0.5)
    for name in columns(num_classes):
        assert weighted[name] == pytest.approx(repeated[name]), name
    if num_classes == 3:
        reference = roc_auc_score(target, probabilities(logits), multi_class="ovo", average="macro")
        assert classification_metrics(logits, target, 0.5)["AUC"] == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("size", [1e-35, 1e-44, 1e35])
def test_size_of_weights_does_not_matter(num_classes, size):
    """Tiny and huge weights give the numbers of their ratios, whatever underflows or overflows in single precision."""
    rng = np.random.default_rng(3)
    logits, target = rng.normal(size=(300, num_classes)), rng.integers(0, num_classes, 300)
    weights = rng.integers(0, 3, 300).astype(np.float32) * np.float32(size)
    metrics = classification_metrics(logits, target, 0.5, weights)
    expected = classification_metrics(logits, target, 0.5, weights / weights.max())
    assert metrics == pytest.approx(expected, rel=1e-5) and not any(map(math.isnan, metrics.values()))


def test_class_without_weight_is_absent():
    """A background of weight 0 is no background: nan, not an AUC of the rest or a warning of a library."""
    logits, target = np.random.default_rng(1).normal(size=(60, 2)), np.repeat([0, 1], 30)
    metrics = classification_metrics(logits, target, 1.0, (target == 1).astype(float))
    assert math.isnan(metrics["AUC"]) and math.isnan(metrics["FP_rate"]) and metrics["accuracy"] == metrics["accuracy"]
    assert math.isnan(classification_metrics(logits, target, 1.0, np.zeros(60))["accuracy"])


def test_scores_that_are_not_finite():
    """They give the loss and nan, no exception of a library."""
    metrics = classification_metrics(np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([1, 0]), 0.5)
    assert metrics.pop("loss") == 0.5 and all(map(math.isnan, metrics.values()))


def test_thinned_curve():
    """A curve of millions of points becomes a short one with the same rejections, down to the last background event."""
    number = 3_000_000
    signal = np.linspace(0, 1, number)
    background = np.maximum(signal**4 - 1e-9, 0)
    curve = Roc(background, signal, 1 - signal)
    thin = curve.thinned(10_000)
    assert len(thin.signal) <= 10_003 and curve.thinned(number) is curve
    assert thin.area == pytest.approx(curve.area, rel=1e-5)
    for efficiency in (0.01, 0.3, 0.5, 0.995):
        assert rejection(thin, efficiency) == pytest.approx(rejection(curve, efficiency), rel=1e-2)
    positive = background[background > 0]
    assert thin.background[thin.background > 0].min() == positive.min() and thin.signal[-1] == 1
