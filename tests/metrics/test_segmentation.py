"""Metrics from a confusion matrix, against scikit-learn on the points themselves."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_fscore_support

from puffin.metrics.bootstrap import results_of_methods
from puffin.metrics.segmentation import PER_CLASS, confusion_of, macro_f1_of_seeds, segmentation_metrics

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


def events(rng, seeds, number):
    """Confusion matrices of random events, (S, E, C, C), in which half of the points are right."""
    return rng.poisson(3, (seeds, number, 4, 4)) + 9 * np.eye(4, dtype=np.int64)


def compare(first, second, resamples=1000):
    """Return the macro F1 of both methods, their difference, and the ends of its interval."""
    statistics = {name: macro_f1_of_seeds(confusions) for name, confusions in (("a", first), ("b", second))}
    a, b = results_of_methods(statistics, ["f1"], np.zeros(first.shape[1]), "a", resamples=resamples)
    difference = b.differences["f1"]
    return a.numbers["f1"].value, b.numbers["f1"].value, difference.value, difference.low, difference.high


def test_bootstrap_by_hand():
    """One training and two events: the four equally likely draws have three differences, known by hand.

    Breaks if matrices are averaged, not summed, or if the networks draw different events."""
    first = np.array([[[[8, 2], [2, 8]], [[4, 1], [1, 4]]]])
    second = np.array([[[[10, 0], [0, 10]], [[3, 2], [2, 3]]]])
    result = compare(first, second)
    # a quarter of the draws each
    assert result == pytest.approx((0.8, 26 / 30, 26 / 30 - 0.8, 0.6 - 0.8, 1 - 0.8))
    assert compare(first, second) == result


def test_bootstrap_is_paired():
    """The same network twice: the width is exactly zero. A network with the same errors in every event has a
    difference that is known better than either F1."""
    first = events(np.random.default_rng(1), 2, 40)
    same = compare(first, first, resamples=100)
    assert same[2:] == (0, 0, 0) and same[0] == same[1]
    shifted = first + np.eye(4, dtype=np.int64)
    shuffled = shifted[:, np.random.default_rng(2).permutation(40)]
    paired, unpaired = (compare(first, second, resamples=300) for second in (shifted, shuffled))
    assert paired[2] == unpaired[2] > 0
    assert paired[4] - paired[3] < 0.5 * (unpaired[4] - unpaired[3])


def test_bootstrap_averages_trainings():
    """The difference is the mean of those of the trainings, by the rules of `segmentation_metrics`."""
    rng = np.random.default_rng(3)
    first, second = events(rng, 3, 20), events(rng, 3, 20)
    first[:, :, 3], first[:, :, :, 3] = 0, 0  # a class without true and predicted points
    result = compare(first, second, resamples=200)
    f1 = [[segmentation_metrics(table, NAMES)["f1_macro"] for table in each.sum(1)] for each in (first, second)]
    assert result[:3] == pytest.approx((np.mean(f1[0]), np.mean(f1[1]), np.mean(f1[1]) - np.mean(f1[0])))
    assert result[3] < result[2] < result[4]
