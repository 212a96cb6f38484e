"""Metrics of labelled points, from a confusion matrix that adds up over batches and processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PER_CLASS = ("precision", "recall", "f1", "iou")


def confusion_of(truth: Tensor, given: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64: points of each true class (rows) that were given each class (columns); truth, given (P,) int64."""
    return torch.bincount(truth * num_classes + given, minlength=num_classes**2).view(num_classes, num_classes)


def segmentation_metrics(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Accuracy; precision, recall, F1 and intersection over union of each class, and their means over classes (macro).

    confusion (C, C) as of `confusion_of`.  A class that neither the truth nor the prediction has is nan and not in the
    means; in every other class 0 / 0 counts as 0, such as the precision of a class that no point was given: the rule
    of scikit-learn."""
    confusion = np.asarray(confusion, np.float64)
    right, true, given = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    seen = true + given > 0
    of = {
        "precision": _ratio(right, given),
        "recall": _ratio(right, true),
        "f1": _ratio(2 * right, true + given),
        "iou": _ratio(right, true + given - right),
    }
    numbers = {"accuracy": float(_ratio(right.sum(), confusion.sum())) if confusion.any() else float("nan")}
    for metric in PER_CLASS:
        values = np.where(seen, of[metric], np.nan)
        numbers[f"{metric}_macro"] = float(values[seen].mean()) if seen.any() else float("nan")
        numbers |= {f"{metric}_{name}": float(value) for name, value in zip(names, values, strict=True)}
    return numbers


def _ratio(a, b) -> np.ndarray:
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.shape(b)), where=np.asarray(b) > 0)
