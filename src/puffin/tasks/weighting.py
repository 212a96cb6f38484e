"""Weighted means over events."""

import math
from functools import reduce
from operator import mul
from typing import NamedTuple

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


class Weights(NamedTuple):
    """Weights of events: values (B,), scaled by a power of two, and total, their sum without the scale."""

    values: Tensor
    total: float


def combined(*factors: Tensor | None) -> Weights | None:
    """Multiply the factors (B,) of the weights of events; None counts as 1. Returns None if no factor is left.

    Waits for a GPU, because scale and sum are Python numbers: call it before the forward pass, when there is little to
    wait for."""
    scaled = [normalised(factor) for factor in factors if factor is not None]
    if not scaled:
        return None
    weights, exponent = scaled[0] if len(scaled) == 1 else normalised(reduce(mul, (weights for weights, _ in scaled)))
    if len(scaled) > 1:
        exponent += sum(power for _, power in scaled)
    return Weights(weights, math.ldexp(float(weights.sum()), exponent))


def weighted_mean(values: Tensor, weights: Weights | None) -> tuple[Tensor, float]:
    """Compute the mean of values (B,), weighted unless weights is None, and the sum of the weights.

    The mean is 0, with gradient 0, if all weights are 0."""
    if weights is None:
        return values.mean(), len(values)
    total = weights.values.sum()
    mean = (values * weights.values).sum() / torch.where(total > 0, total, torch.ones_like(total))
    return mean, weights.total
