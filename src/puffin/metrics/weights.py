"""Weights of events in metrics."""

import numpy as np


def normalised(weights: np.ndarray) -> np.ndarray:
    """Scale weights (N,) by a power of two so that the largest one is from 0.5 to 1; all zeros stay zeros.

    Every metric depends on ratios of weights only. A power of two changes no ratio by any rounding, but sums and
    products of weights such as 1e-35 or 1e35 neither vanish nor overflow."""
    largest = float(weights.max(initial=0.0))
    if largest == 0.0:
        return weights
    exponent = -int(np.frexp(largest)[1])
    return np.ldexp(weights, exponent)


def weighted_average(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Average values (N,) with weights (N,), or None for 1; nan if there are no values or the weights sum to 0."""
    if not len(values) or (weights is not None and not weights.any()):
        return float("nan")
    return float(np.average(values, weights=None if weights is None else normalised(weights)))
