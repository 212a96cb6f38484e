"""Metrics from a confusion matrix, against scikit-learn on the points themselves."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_fscore_support

from puffin.metrics.segmentation import PER_CLASS, confusion_of, segmentation_metrics

NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "true, given", [((0, 1, 2, 3), (0, 1, 2, 3)), ((0, 1), (0, 2)), ((0, 1, 3), (0,)), ((2,), (2,)), ((0,), (1,))]
)
def test_as_scikit_learn(true, given):
    """All classes; a class absent from the truth, from what is given, from both.

    Breaks if 0 / 0 counts where scikit-learn leaves the class out, or is left out where it counts as 0."""
    rng = np.random.default_rng(0)
    truth, chosen = rng.choice(true, 500), rng.choice(given, 500)
    table = confusion_of(torch.from_numpy(truth), torch.from_numpy(chosen), 4)
    numbers = segmentation_metrics(table.numpy(), NAMES)
    labels = np.union1d(truth, chosen)
    theirs = [
        *precision_recall_fscore_support(truth, chosen, labels=labels, zero_division=0)[:3],
        jaccard_score(truth, chosen, labels=labels, average=None),
    ]
    assert numbers.pop("accuracy") == pytest.approx(accuracy_score(truth, chosen), abs=1e-15)
    for metric, values in zip(PER_CLASS, theirs, strict=False):
        assert numbers.pop(f"{metric}_macro") == pytest.approx(values.mean(), rel=1e-14)
        for k, name in enumerate(NAMES):
            expected = values[labels == k][0] if k in labels else np.nan
            assert numbers.pop(f"{metric}_{name}") == pytest.approx(expected, rel=1e-14, nan_ok=True)
    assert not numbers


def test_no_points():
    """A split without points: every metric is nan, and none is missing."""
    numbers = segmentation_metrics(np.zeros((4, 4)), NAMES)
    assert len(numbers) == 1 + 4 * 5 and np.isnan(list(numbers.values())).all()


def test_billions_of_points():
    """More points than float32 or int32 can count: one wrong point makes a difference."""
    table = np.diag([3 * 10**9, 1, 1, 1]).astype(np.int64)
    table[0, 1] = 1
    assert segmentation_metrics(table, NAMES)["recall_a"] == 3 * 10**9 / (3 * 10**9 + 1) < 1
