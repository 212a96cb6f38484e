"""Quantiles of a whole split: of any number of values, with or without weights."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from puffin.metrics.weights import normalised

TORCH_LIMIT = 2**24  # torch.quantile refuses more values


def quantiles(values: Tensor, fractions: Sequence[float], weights: Tensor | None = None) -> list[float]:
    """Compute the values below which the given fractions of values (N,) float64 lie.

    Without weights a quantile is interpolated between two values; with weights (N,) it is one of the values. nan if
    there are no values, if one of them is nan, or if the weights sum to 0."""
    if not len(values) or values.isnan().any():
        return [float("nan")] * len(fractions)
    if weights is not None:
        scaled = normalised(weights.double().numpy())
        if not scaled.any():
            return [float("nan")] * len(fractions)
        return np.quantile(values.numpy(), fractions, weights=scaled, method="inverted_cdf").tolist()
    if len(values) > TORCH_LIMIT:
        return np.quantile(values.numpy(), fractions).tolist()
    return [float(torch.quantile(values, fraction)) for fraction in fractions]


def quantile(values: Tensor, fraction: float, weights: Tensor | None = None) -> float:
    """Compute one quantile; see `quantiles`."""
    return quantiles(values, [fraction], weights)[0]
