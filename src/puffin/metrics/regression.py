"""Resolution of predicted four-momenta (spec section 7).  Source: arXiv 2307.16506, sec. 5."""

import re

import numpy as np
import torch
from torch import Tensor

from puffin.losses.momenta import MOMENTUM_LOSSES, angle, delta_r, mass, transverse_momentum

RESOLUTIONS = ("dPsi", "dR", "dpT", "dm")


class PerTarget(dict):
    """Values by the name of a metric, which hold for that metric of each of several targets too: of dm for dm_0, dm_1, ..."""

    def __contains__(self, name: str) -> bool:
        return super().__contains__(_unnumbered(name))

    def __missing__(self, name: str):
        return dict(self)[_unnumbered(name)]


# metrics that can choose the best epoch: all are better if lower
DIRECTIONS = PerTarget.fromkeys(("loss", *RESOLUTIONS, "loss_m", "loss_3d"), -1)


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def columns(num_targets: int) -> tuple[str, ...]:
    """CSV columns: the loss, then for each target its resolutions and mean losses; numbered if there are several."""
    names = (*RESOLUTIONS, *(f"loss_{name}" for name in MOMENTUM_LOSSES))
    return ("loss", *(name + _suffix(t, num_targets) for t in range(num_targets) for name in names))


def _suffix(target: int, num_targets: int) -> str:
    return "" if num_targets == 1 else f"_{target}"


def quantile(values: Tensor, q: float, weights: Tensor | None = None) -> float:
    """The value below which a part q of values (N,) float64 lies: interpolated, but with weights (N,) one of the values."""
    if weights is None:
        return float(torch.quantile(values, q))
    return float(np.quantile(values.numpy(), q, weights=weights.numpy(), method="inverted_cdf"))


def half_width(values: Tensor, weights: Tensor | None = None) -> float:
    """Half of the 16% to 84% range."""
    return (quantile(values, 0.84, weights) - quantile(values, 0.16, weights)) / 2


def relative_error(predicted: Tensor, true: Tensor) -> Tensor:
    """(predicted - true) / true."""
    return (predicted - true) / true


def regression_metrics(predicted: Tensor, true: Tensor, loss: float, weights: Tensor | None = None) -> dict[str, float]:
    """Metrics by CSV column; predicted and true are (N, T, 4), weights (N,) of the events or None.

    dPsi [rad], dR: 68% quantiles of the angle and the eta-phi distance; dpT, dm: half of the 16-84% range of the
    relative error."""
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
