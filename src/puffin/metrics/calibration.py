"""Calibration of class probabilities, and working points: a probability of 0.8 should be right in 80% of the events.

Source: Guo et al., arXiv 1706.04599.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from puffin.metrics.quantiles import quantiles
from puffin.metrics.weights import weighted_average

BINS = 15  # of the confidence, as in the source
TEMPERATURES = (0.02, 50.0)


class Reliability(NamedTuple):
    """By bin of the confidence, the probability of the predicted class, (BINS,) each.

    confidence and accuracy: means over the events of the bin, nan in an empty one; fraction: of all events, by
    weight."""

    confidence: np.ndarray
    accuracy: np.ndarray
    fraction: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of accuracy and confidence; nan without events."""
        distance = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(distance * self.fraction)) if self.fraction.any() else float("nan")


def reliability(probability: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> Reliability:
    """Compare confidence and accuracy of class probabilities (N, K). target (N,): class numbers; weights (N,)."""
    confidence, correct = probability.max(1), probability.argmax(1) == target
    rows = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    chosen = [rows == b for b in range(BINS)]
    means = [
        [weighted_average(values[c], None if weights is None else weights[c]) for c in chosen]
        for values in (confidence, correct)
    ]
    fraction = [weighted_average(c, weights) for c in chosen]
    return Reliability(np.array(means[0]), np.array(means[1]), np.nan_to_num(np.array(fraction)))


def fit_temperature(logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the temperature T in TEMPERATURES for which softmax(logits / T) has the lowest cross entropy.

    logits (N, K), target (N,), weights (N,). Dividing by T changes no order of the scores."""
    rows = np.arange(len(target))

    def cross_entropy(log_temperature: float) -> float:
        return -weighted_average(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, target], weights)

    return float(np.exp(minimize_scalar(cross_entropy, bounds=np.log(TEMPERATURES), method="bounded").x))


def thresholds(
    scores: np.ndarray, is_signal: np.ndarray, efficiencies: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return the thresholds that the given fractions of the signal exceed, (E,).

    scores (N,), high for signal; is_signal (N,) bool; weights (N,)."""
    signal = torch.from_numpy(scores[is_signal])
    of_signal = None if weights is None else torch.from_numpy(weights[is_signal])
    return np.array(quantiles(signal, (1 - efficiencies).tolist(), of_signal))


def efficiency(passing: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Compute the fraction of events that pass, and its statistical error; nan without events.

    passing (N,) bool; weights (N,): the error is that of as many equal weights as have the same uncertainty."""
    fraction = weighted_average(passing, weights)
    if not fraction == fraction:
        return fraction, fraction
    number = len(passing) if weights is None else float(weights.sum()) ** 2 / float((weights**2).sum())
    low, high = wilson_interval(fraction, number)
    return fraction, float(high - low) / 2


def wilson_interval(fraction, number: float) -> tuple:
    """Return the ends of the 68% interval of a fraction, or of an array of them, measured with `number` events.

    It holds for a few passing events too. Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209."""
    centre = (fraction + 1 / (2 * number)) / (1 + 1 / number)
    width = np.sqrt(fraction * (1 - fraction) / number + 1 / (4 * number**2)) / (1 + 1 / number)
    return centre - width, centre + width
