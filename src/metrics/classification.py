"""Classification metrics (spec section 7).  Source: arXiv 2211.00454, sec. 4.1."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

COLUMNS = (
    "loss", "accuracy", "AUC", "BgRejectionAt0.3", "atSignEfficiency03", "BgRejectionAt0.5", "atSignEfficiency05",
    "FP_rate", "FN_rate",
)  # fmt: skip


class Roc(NamedTuple):
    """A ROC curve: background efficiency, signal efficiency and the threshold, each (points,)."""

    background: np.ndarray
    signal: np.ndarray
    threshold: np.ndarray


def binary_roc(logits: np.ndarray, target: np.ndarray) -> Roc | None:
    """ROC of the score difference logits[:, 1] - logits[:, 0]; None if one class has no events."""
    if target.min() == target.max():
        return None
    return Roc(*roc_curve(target, logits[:, 1] - logits[:, 0]))


def rejection(roc: Roc, efficiency: float) -> tuple[float, float]:
    """1/eB at the ROC point nearest to the signal efficiency, and that point's signal efficiency.

    If eB is 0 there, the first point with eB > 0 is taken."""
    nearest = int(np.abs(roc.signal - efficiency).argmin())
    if roc.background[nearest] == 0:
        nearest = int(np.argmax(roc.background > 0))
    return float(1 / roc.background[nearest]), float(roc.signal[nearest])


def classification_metrics(logits: np.ndarray, target: np.ndarray, loss: float) -> dict[str, float]:
    """Metrics by CSV column.  logits (N, K), target (N,) class numbers; ROC-based values are nan for K != 2 or if a class is absent."""
    chosen = logits.argmax(1)
    metrics = dict.fromkeys(COLUMNS, float("nan"))
    metrics |= {"loss": loss, "accuracy": float((chosen == target).mean())}
    if logits.shape[1] != 2:
        return metrics
    for name, wrong, truth in (("FP_rate", 1, 0), ("FN_rate", 0, 1)):
        if (target == truth).any():
            metrics[name] = float((chosen[target == truth] == wrong).mean())
    roc = binary_roc(logits, target)
    if roc is not None:
        metrics["AUC"] = float(roc_auc_score(target, logits[:, 1] - logits[:, 0]))
        metrics["BgRejectionAt0.3"], metrics["atSignEfficiency03"] = rejection(roc, 0.3)
        metrics["BgRejectionAt0.5"], metrics["atSignEfficiency05"] = rejection(roc, 0.5)
    return metrics
