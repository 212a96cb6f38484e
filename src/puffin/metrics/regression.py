"""Resolution of predicted four-momenta.

Source: docs/MATHEMATICS_PELICAN.md, section 7; arXiv 2307.16506, sec. 5.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from puffin.losses.momenta import MOMENTUM_LOSSES, mass, transverse_momentum
from puffin.metrics.quantiles import quantile, quantiles
from puffin.metrics.weights import weighted_average
from puffin.settings.names import REGRESSION_METRICS

RESOLUTIONS = ("dPsi", "dR", "dpT", "dm")
RESPONSES = ("pT_response", "pT_resolution", "m_response", "m_resolution")
DIRECTIONS = REGRESSION_METRICS  # of the metrics that can choose the best epoch
BLOCK = 2**14  # events whose numbers are computed together: they stay in the cache, and no copy fills the memory
QUANTILES = {"psi": "dPsi", "R": "dR"}  # of which terms of the loss the 68% quantile is a metric


def columns(num_targets: int) -> tuple[str, ...]:
    """Return the CSV columns: the loss, resolutions and losses of each target, then responses of each target.

    They are numbered if there are several targets."""
    names = (*RESOLUTIONS, *(f"loss_{name}" for name in MOMENTUM_LOSSES))
    targets = range(num_targets)
    groups = (names, RESPONSES)  # the second one was added later, and old tables keep their columns
    return ("loss", *(name + _suffix(t, num_targets) for group in groups for t in targets for name in group))


def _suffix(target: int, num_targets: int) -> str:
    return "" if num_targets == 1 else f"_{target}"


assert set(REGRESSION_METRICS) <= set(columns(1))


def relative_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Compute (predicted - true) / true."""
    return (predicted - true) / true


def pt_error(p: Tensor, q: Tensor) -> Tensor:
    """Compute the relative error of the transverse momentum of predicted momenta p (N, 4), true q (N, 4)."""
    return relative_error(transverse_momentum(p), transverse_momentum(q))


def mass_error(p: Tensor, q: Tensor) -> Tensor:
    """Compute the relative error of the absolute value of the mass of predicted momenta p (N, 4), true q (N, 4)."""
    return relative_error(mass(p).abs(), mass(q).abs())


class Response(NamedTuple):
    """The distribution of the response, predicted / true.

    half_width: half of the range from its 16% to its 84% quantile; median; resolution: half_width / median, which a
    network cannot improve by predicting smaller numbers, and which is infinite if the median is 0."""

    half_width: float
    median: float
    resolution: float


def response(errors: Tensor, weights: Tensor | None = None) -> Response:
    """Compute the response from relative errors (N,), which are the response minus 1."""
    low, middle, high = quantiles(errors, (0.16, 0.5, 0.84), weights)
    half_width, median = (high - low) / 2, 1 + middle
    if math.isnan(median):
        return Response(half_width, median, median)
    return Response(half_width, median, half_width / median if median > 0 else math.inf)


def regression_metrics(predicted: Tensor, true: Tensor, loss: float, weights: Tensor | None = None) -> dict[str, float]:
    """Compute the metrics by CSV column; predicted, true (N, T, 4), weights (N,): event weights, or None.

    dPsi [rad], dR: 68% quantiles of the angle and of the distance in pseudorapidity and azimuth; dpT, dm: half of the
    16-84% range of the relative errors of pT and mass; pT_response, m_response: the median of predicted / true;
    pT_resolution, m_resolution: dpT and dm divided by it. All are nan if the weights sum to 0."""
    targets = true.shape[1]
    plain_weights = None if weights is None else weights.double().numpy()
    metrics = dict.fromkeys(columns(targets), math.nan) | {"loss": loss}
    for t in range(targets):
        p, q = predicted[:, t], true[:, t]
        pt, m = (response(by_event(error, p, q), weights) for error in (pt_error, mass_error))
        values = {"dpT": pt.half_width, "pT_response": pt.median, "pT_resolution": pt.resolution}
        values |= {"dm": m.half_width, "m_response": m.median, "m_resolution": m.resolution}
        for name, term in MOMENTUM_LOSSES.items():
            terms = by_event(term, p, q)
            values[f"loss_{name}"] = weighted_average(terms.numpy(), plain_weights)
            if name in QUANTILES:
                values[QUANTILES[name]] = quantile(terms, 0.68, weights)
        metrics |= {name + _suffix(t, targets): value for name, value in values.items()}
    return metrics


def by_event(number: Callable[[Tensor, Tensor], Tensor], p: Tensor, q: Tensor) -> Tensor:
    """Compute a number (N,) float64 for each pair of momenta (N, 4)."""
    blocks = [number(a.double(), b.double()) for a, b in zip(p.split(BLOCK), q.split(BLOCK), strict=True)]
    return torch.cat(blocks)
