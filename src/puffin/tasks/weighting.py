"""Weighted means over events."""

from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor | None) -> tuple[Tensor, float]:
    """Compute the mean of values (B,) with weights (B,), or None for 1, and the sum of the weights."""
    if weights is None:
        return values.mean(), len(values)
    total = weights.sum()
    return (values * weights).sum() / total.clamp_min(1e-30), float(total)
