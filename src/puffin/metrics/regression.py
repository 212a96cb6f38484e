"""Resolution of predicted four-momenta.

Source: docs/MATHEMATICS_PELICAN.md, section 7; arXiv 2307.16506, sec. 5.
"""

import numpy as np
import torch
from torch import Tensor

from puffin.losses.momenta import MOMENTUM_LOSSES, angle, delta_r, mass, transverse_momentum
from puffin.settings.names import REGRESSION_METRICS

RESOLUTIONS = ("dPsi", "dR", "dpT", "dm")


DIRECTIONS = REGRESSION_METRICS  # of the metrics that can choose the best epoch


def columns(num_targets: int) -> tuple[str, ...]:
    """Return the CSV columns: the loss, then resolutions and losses of each target, numbered if there are several."""
    names = (*RESOLUTIONS, *(f"loss_{name}" for name in MOMENTUM_LOSSES))
    return ("loss", *(name + _suffix(t, num_targets) for t in range(num_targets) for name in names))


def _suffix(target: int, num_targets: int) -> str:
    return "" if num_targets == 1 else f"_{target}"


assert set(REGRESSION_METRICS) <= set(columns(1))


def quantile(values: Tensor, q: float, weights: Tensor | None = None) -> float:
    """Compute the value below which a fraction q of values (N,) float64 lies.

    Without weights it is interpolated between two values; with weights (N,) it is one of the values."""
    if weights is None:
        return float(torch.quantile(values, q))
    return float(np.quantile(values.numpy(), q, weights=weights.numpy(), method="inverted_cdf"))


def half_width(values: Tensor, weights: Tensor | None = None) -> float:
    """Compute half of the range from the 16% to the 84% quantile."""
    return (quantile(values, 0.84, weights) - quantile(values, 0.16, weights)) / 2


def relative_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Compute (predicted - true) / true."""
    return (predicted - true) / true


def regression_metrics(predicted: Tensor, true: Tensor, loss: float, weights: Tensor | None = None) -> dict[str, float]:
    """Compute the metrics by CSV column; predicted, true (N, T, 4), weights (N,): event weights, or None.

    dPsi [rad], dR: 68% quantiles of the angle and of the distance in pseudorapidity and azimuth; dpT, dm: half of the
    16-84% range of the relative errors of pT and mass."""
    predicted, true = predicted.double(), true.double()
    weights = None if weights is None else weights.double()
    metrics = {"loss": loss}
    for t in range(true.shape[1]):
        p, q = predicted[:, t], true[:, t]
        values = {
            "dPsi": quantile(angle(p, q), 0.68, weights),
            "dR": quantile(delta_r(p, q), 0.68, weights),
            "dpT": half_width(relative_error(transverse_momentum(p), transverse_momentum(q)), weights),
            "dm": half_width(relative_error(mass(p).abs(), mass(q).abs()), weights),
        }
        values |= {
            f"loss_{name}": float(np.average(term(p, q), weights=weights)) for name, term in MOMENTUM_LOSSES.items()
        }
        metrics |= {name + _suffix(t, true.shape[1]): value for name, value in values.items()}
    return metrics
