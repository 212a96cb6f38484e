"""Every metric that is nan has a reason, and no other one has."""

import math

import numpy as np
import pytest

from puffin.metrics.classification import classification_metrics, columns
from puffin.metrics.missing import missing_of_classes, not_finite

CASES = {
    "all there": ([0, 1, 2, 0, 1, 2], None),
    "one class": ([1, 1, 1, 1, 1, 1], None),
    "one of three absent": ([0, 1, 0, 1, 0, 1], None),
    "weights of a class are 0": ([0, 1, 2, 0, 1, 2], [0, 1, 1, 0, 1, 1]),
    "one class has weights": ([0, 1, 2, 0, 1, 2], [1, 0, 0, 1, 0, 0]),
    "no weights": ([0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_reasons_belong_to_missing_metrics(num_classes, case):
    """Breaks if a metric becomes nan without a reason, or if weights of 0 give a number or an exception."""
    labels, weights = CASES[case]
    target = np.array(labels) % num_classes
    weights = None if weights is None else np.array(weights, np.float32)
    logits = np.random.default_rng(0).normal(size=(6, num_classes))
    loss = math.nan if weights is not None and not weights.any() else 0.5
    metrics = classification_metrics(logits, target, loss, weights)
    missing = {name for name, value in metrics.items() if math.isnan(value)}
    assert missing == set(missing_of_classes(target, weights, num_classes))


def test_words():
    """A reason names the class by number and name, and tells an absent class from one that is not weighted."""
    target = np.array([1, 1, 1])
    assert missing_of_classes(target, None, 2, ("qcd", "top"))["AUC"] == "no event is of class 0 (qcd)"
    assert missing_of_classes(target, None, 2)["BgRejectionAt0.3"] == "no event is of class 0"
    found = missing_of_classes(np.array([0, 1, 1]), np.array([0.0, 1, 1]), 2)
    assert found["FP_rate"] == "all events of class 0 have weight 0" and "FN_rate" not in found
    assert missing_of_classes(target, np.zeros(3), 2)["accuracy"] == "the weights of all events are 0"
    assert missing_of_classes(np.array([2, 2]), None, 3)["AUC_2"] == "all events are of class 2"
    assert set(missing_of_classes(target[:0], None, 2)) == set(columns(2))


def test_scores_that_are_not_finite():
    """They are counted by event."""
    scores = np.zeros((4, 2))
    assert not_finite(scores, "class scores") == ""
    scores[1] = math.nan
    scores[3, 0] = math.inf
    assert not_finite(scores, "class scores") == "the class scores of 2 of 4 events are not finite"
