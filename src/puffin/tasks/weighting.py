"""Means over events that count differently."""

from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor | None) -> tuple[Tensor, float]:
    """Mean of values (B,) with weights (B,) or None for 1, and what the weights add up to."""
    if weights is None:
        return values.mean(), len(values)
    total = weights.sum()
    return (values * weights).sum() / total.clamp_min(1e-30), float(total)
