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
    for name in BINARY_COLUMNS:
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
