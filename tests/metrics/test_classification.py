"""Metrics against hand-made cases and the published run."""

import csv
import math

import numpy as np
import pytest

from src.metrics.classification import COLUMNS, Roc, classification_metrics, rejection
from src.models.published import read_checkpoint


def test_published_predictions_give_the_published_metrics(run_folder):
    """From the published predictions alone; a change in the choice of the ROC point breaks it."""
    saved = read_checkpoint(run_folder / "ref.best.test.pt")
    with open(run_folder / "ref.Best.metrics.csv") as file:
        reference = next(csv.DictReader(file))
    logits, target = saved["predict"].numpy(), saved["targets"].numpy().astype(int)
    loss = float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(target)), target]))
    metrics = classification_metrics(logits, target, loss)
    assert tuple(metrics) == COLUMNS
    for name in COLUMNS:
        assert metrics[name] == pytest.approx(float(reference[name]), rel=1e-5), name


def test_rejection_where_no_background_is_left():
    """At eB = 0 the first point with eB > 0 counts."""
    roc = Roc(np.array([0, 0, 0.1, 1]), np.array([0, 0.3, 0.6, 1]), np.zeros(4))
    assert rejection(roc, 0.3) == (10.0, 0.6)


def test_one_class_only():
    """A test file without background has an accuracy but no ROC."""
    metrics = classification_metrics(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]), 0.5)
    assert metrics["accuracy"] == 0.5 and math.isnan(metrics["AUC"]) and metrics["FN_rate"] == 0.5
