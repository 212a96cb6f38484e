"""Weighted means over events."""

import math
from functools import reduce
from operator import mul

import torch
from torch import Tensor


def normalised(weights: Tensor) -> tuple[Tensor, int]:
    """Scale weights (B,) by a power of two so that the largest one is from 0.5 to 1; return its exponent too.

    The weights are the scaled ones times 2**exponent; all zeros stay zeros, with exponent 0. A weighted mean is the
    same to the last bit, but products and sums of weights such as 1e-35 do not vanish."""
    largest = float(weights.max()) if len(weights) else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return weights, 0
    exponent = math.frexp(largest)[1]
    half = -exponent // 2  # in two steps, as 2**-exponent may overflow
    return weights * 2.0**half * 2.0 ** (-exponent - half), exponent


def weighted_mean(values: Tensor, *factors: Tensor | None) -> tuple[Tensor, float]:
    """Compute the mean of values (B,), weighted by the product of the factors (B,), and the sum of the weights.

    A factor None counts as 1. The mean is 0, with gradient 0, if all weights are 0."""
    scaled = [normalised(factor) for factor in factors if factor is not None]
    if not scaled:
        return values.mean(), len(values)
    weights, exponent = normalised(reduce(mul, (weights for weights, _ in scaled)))
    exponent += sum(power for _, power in scaled)
    total = weights.sum()
    mean = (values * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))
    return mean, math.ldexp(float(total), exponent)
