"""Metrics of classified points, from a confusion matrix that is added up over batches and processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from puffin.metrics.bootstrap import Statistic
from puffin.settings.names import SEGMENTATION_METRICS

PER_CLASS = ("precision", "recall", "f1", "iou")
assert set(SEGMENTATION_METRICS) == {"loss", "accuracy", *(f"{metric}_macro" for metric in PER_CLASS)}


def confusion_of(true: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Count the points of each true class (rows) and predicted class (columns), (C, C) int64.

    true, predicted (P,) int64: class numbers."""
    return torch.bincount(true * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def segmentation_metrics(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Compute the accuracy, and precision, recall, F1 and intersection over union of each class and their means.

    confusion (C, C) from `confusion_of`; names: of the classes. The means over classes end in `_macro`. A class without
    true and predicted points is nan and is not in the means. Otherwise 0 / 0 counts as 0, for example the precision of
    a class that is never predicted. scikit-learn has the same rules."""
    confusion = np.asarray(confusion, np.float64)
    correct, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    present = true + predicted > 0
    of_classes = {
        "precision": _ratio(correct, predicted),
        "recall": _ratio(correct, true),
        "f1": _ratio(2 * correct, true + predicted),
        "iou": _ratio(correct, true + predicted - correct),
    }
    metrics = {"accuracy": float(_ratio(correct.sum(), confusion.sum())) if confusion.any() else float("nan")}
    for metric in PER_CLASS:
        values = np.where(present, of_classes[metric], np.nan)
        metrics[f"{metric}_macro"] = float(values[present].mean()) if present.any() else float("nan")
        metrics |= {f"{metric}_{name}": float(value) for name, value in zip(names, values, strict=True)}
    return metrics


def macro_f1_of_seeds(confusions: np.ndarray) -> Statistic:
    """Return the statistic of S trainings: from how often each of E events is counted, (E,), to their macro F1 (S, 1).

    confusions (S, E, C, C): of each training and event. The F1 is that of the summed matrices, with the rules of
    `segmentation_metrics`."""
    seeds, events, classes, _ = confusions.shape
    rows = np.moveaxis(confusions, 1, 0).reshape(events, -1).astype(np.float64)
    return lambda times: _f1_macro((times @ rows).reshape(seeds, classes, classes))[:, None]


def _f1_macro(confusion: np.ndarray) -> np.ndarray:
    """Compute the mean F1 of the classes with true or predicted points, (...,), from (..., C, C); 0 without points."""
    total = confusion.sum(-1) + confusion.sum(-2)
    f1 = _ratio(2 * confusion.diagonal(axis1=-2, axis2=-1), total)
    return _ratio(f1.sum(-1), (total > 0).sum(-1))


def _ratio(a, b) -> np.ndarray:
    """Compute a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.shape(b)), where=np.asarray(b) > 0)
