"""Classification metrics.

Source: docs/MATHEMATICS_PELICAN.md, section 7; arXiv 2211.00454, sec. 4.1; arXiv 2307.16506, sec. 4.
"""

from itertools import permutations
from typing import NamedTuple

import numpy as np
from sklearn.metrics import auc, confusion_matrix, roc_curve

from puffin.metrics.calibration import reliability
from puffin.metrics.weights import normalised, weighted_average
from puffin.settings.names import CLASSIFICATION_METRICS

BINARY_COLUMNS = (
    *("loss", "accuracy", "AUC"),
    *("BgRejectionAt0.3", "atSignEfficiency03", "BgRejectionAt0.5", "atSignEfficiency05"),
    *("FP_rate", "FN_rate", "ECE"),
)
assert set(CLASSIFICATION_METRICS) <= set(BINARY_COLUMNS)
BACKGROUND_EFFICIENCIES = (0.1, 0.01)
SIGNAL_EFFICIENCIES = (0.3, 0.5, 0.995)


def columns(num_classes: int) -> tuple[str, ...]:
    """Return the CSV columns in their order."""
    if num_classes == 2:
        return BINARY_COLUMNS
    per_class = (
        *(f"SigEfficiencyAt{b}" for b in BACKGROUND_EFFICIENCIES),
        *(f"BgRejectionAt{s}" for s in SIGNAL_EFFICIENCIES),
    )
    classes = range(num_classes)
    return (
        "loss",
        "accuracy",
        "AUC",
        *(f"AUC_{c}" for c in classes),
        *(f"{n}_{c}" for c in classes for n in per_class),
        "ECE",
    )


class Roc(NamedTuple):
    """A ROC curve: background efficiency, signal efficiency and the threshold, each (points,)."""

    background: np.ndarray
    signal: np.ndarray
    threshold: np.ndarray

    @property
    def area(self) -> float:
        """The area under the curve."""
        return float(auc(self.background, self.signal))

    def thinned(self, number: int) -> "Roc":
        """Return the curve with about `number` of its points, if it has more.

        They are spaced evenly in signal efficiency and in the logarithm of the background efficiency."""
        if len(self.signal) <= number:
            return self
        positive = int(np.argmax(self.background > 0))
        wanted = np.geomspace(self.background[positive], 1, number // 2)
        chosen: list[np.ndarray] = [
            np.searchsorted(self.signal, np.linspace(0, 1, number // 2)),
            np.searchsorted(self.background, wanted),
            np.array([0, positive, len(self.signal) - 1]),
        ]
        rows = np.unique(np.minimum(np.concatenate(chosen), len(self.signal) - 1))
        return Roc(*(column[rows] for column in self))


def roc(scores: np.ndarray, is_signal: np.ndarray, weights: np.ndarray | None = None) -> Roc | None:
    """Compute the ROC curve of scores (N,), high for signal.

    None if signal or background is absent (no event, or only events of weight 0), or if a score is not finite."""
    counted = is_signal if weights is None else is_signal[weights > 0]
    if not len(counted) or counted.min() == counted.max() or not np.isfinite(scores).all():
        return None
    return Roc(*roc_curve(is_signal, scores, sample_weight=None if weights is None else normalised(weights)))


def one_vs_rest(logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> list[Roc | None]:
    """Compute ROC curves of logits (N, K): one curve of the score difference for two classes, else one per class.

    The score of a class against the rest is its probability. A curve is None if one of its two classes is absent."""
    if logits.shape[1] == 2:
        return [roc(signal_scores(logits), target == 1, weights)]
    scores = probabilities(logits)
    return [roc(scores[:, c], target == c, weights) for c in range(logits.shape[1])]


def signal_scores(logits: np.ndarray) -> np.ndarray:
    """Return the score of two classes, the difference of the class scores (N, 2), high for signal."""
    return logits[:, 1] - logits[:, 0]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def one_vs_one(scores: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Average the AUC over all ordered pairs of classes, each with the score of the first class as discriminant.

    scores (N, K); nan if a class is absent. scikit-learn has this metric for unweighted events only.
    Source: Hand and Till, Machine Learning 45 (2001) 171."""
    values = []
    for a, b in permutations(range(scores.shape[1]), 2):
        pair = (target == a) | (target == b)
        curve = roc(scores[pair, a], target[pair] == a, None if weights is None else weights[pair])
        values.append(float("nan") if curve is None else curve.area)
    return float(np.mean(values))


def rejection(curve: Roc, efficiency: float) -> tuple[float, float]:
    """Return 1/eB at the ROC point nearest to a signal efficiency, and the signal efficiency of that point.

    If the background efficiency eB is 0 there, the first point with eB > 0 is used."""
    nearest = int(np.abs(curve.signal - efficiency).argmin())
    if curve.background[nearest] == 0:
        nearest = int(np.argmax(curve.background > 0))
    return float(1 / curve.background[nearest]), float(curve.signal[nearest])


def confusion(logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Count the events, or sum their weights, by true class (rows) and predicted class (columns), (K, K)."""
    return confusion_matrix(target, logits.argmax(1), labels=np.arange(logits.shape[1]), sample_weight=weights)


def classification_metrics(
    logits: np.ndarray, target: np.ndarray, loss: float, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Compute the metrics by CSV column; those that need an absent class are nan (missing.py says why).

    A class is absent if it has no event, or only events of weight 0. If a score is not finite, only the loss is given.
    logits (N, K); target (N,): true class numbers; weights (N,): event weights, or None."""
    predicted, num_classes = logits.argmax(1), logits.shape[1]
    metrics = dict.fromkeys(columns(num_classes), float("nan")) | {"loss": loss}
    if not np.isfinite(logits).all():
        return metrics
    metrics["accuracy"] = weighted_average(predicted == target, weights)
    metrics["ECE"] = reliability(probabilities(logits), target, weights).error
    curves = one_vs_rest(logits, target, weights)
    if num_classes > 2:
        return metrics | _multi_class(logits, target, weights, curves)
    for name, true_class, wrong_class in (("FP_rate", 0, 1), ("FN_rate", 1, 0)):
        of_class = target == true_class
        class_weights = None if weights is None else weights[of_class]
        metrics[name] = weighted_average(predicted[of_class] == wrong_class, class_weights)
    if curves[0] is not None:
        metrics["AUC"] = curves[0].area
        metrics["BgRejectionAt0.3"], metrics["atSignEfficiency03"] = rejection(curves[0], 0.3)
        metrics["BgRejectionAt0.5"], metrics["atSignEfficiency05"] = rejection(curves[0], 0.5)
    return metrics


def _multi_class(logits, target, weights, curves) -> dict[str, float]:
    """Compute the mean AUC over pairs of classes, and the metrics of each class against the rest."""
    metrics = {}
    if all(curve is not None for curve in curves):
        metrics["AUC"] = one_vs_one(probabilities(logits), target, weights)
    for c, curve in enumerate(curves):
        if curve is None:
            continue
        metrics[f"AUC_{c}"] = curve.area
        for b in BACKGROUND_EFFICIENCIES:
            metrics[f"SigEfficiencyAt{b}_{c}"] = float(np.interp(b, curve.background, curve.signal))
        for s in SIGNAL_EFFICIENCIES:
            metrics[f"BgRejectionAt{s}_{c}"] = rejection(curve, s)[0]
    return metrics
