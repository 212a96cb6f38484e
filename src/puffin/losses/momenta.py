"""Losses between predicted and true four-momenta (..., 4), which are E, px, py, pz [GeV]: one value for each pair.

Source: arXiv 2307.16506, sec. 5. The names are those of the published scripts; settings/names.py describes them.
"""

import torch
from torch import Tensor

from puffin.layers.lorentz import minkowski
from puffin.settings import names


def mass(p: Tensor) -> Tensor:
    """Compute the mass as sign(p^2) sqrt(|p^2| + 1e-8): negative for space-like momenta."""
    square = minkowski(p, p)
    return square.sign() * (square.abs() + 1e-8).sqrt()


def transverse_momentum(p: Tensor) -> Tensor:
    """Compute the length of (px, py)."""
    return p[..., 1:3].norm(dim=-1)


def angle(p: Tensor, q: Tensor) -> Tensor:
    """Compute the angle between the three-momenta, 0 to pi; accurate for nearly parallel momenta as well."""
    a, b = p[..., 1:], q[..., 1:]
    a, b = a * b.norm(dim=-1, keepdim=True), b * a.norm(dim=-1, keepdim=True)
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def delta_r(p: Tensor, q: Tensor) -> Tensor:
    """Compute the distance in pseudorapidity and azimuth; the azimuth is periodic."""

    def eta(x: Tensor) -> Tensor:
        return torch.asinh(x[..., 3] / transverse_momentum(x).clamp_min(1e-12))

    cross = p[..., 1] * q[..., 2] - p[..., 2] * q[..., 1]
    phi = torch.atan2(cross, (p[..., 1:3] * q[..., 1:3]).sum(-1))
    return torch.stack([eta(p) - eta(q), phi], -1).norm(dim=-1)  # unlike hypot, with a gradient at 0


def _area(p: Tensor, q: Tensor) -> Tensor:
    """Compute the area of the parallelogram of two four-vectors, which is 0 if they are parallel."""
    return (minkowski(p, q).square() - minkowski(p, p) * minkowski(q, q) + 1e-6).abs().sqrt()


# name -> function (predicted, true) -> value of each pair
MOMENTUM_LOSSES = {
    "inv": lambda p, q: minkowski(p - q, p - q).abs(),
    "m": lambda p, q: (mass(p) - mass(q)).abs(),
    "m2": lambda p, q: (minkowski(p, p) - minkowski(q, q)).abs(),
    "3d": lambda p, q: (p - q)[..., 1:].norm(dim=-1),
    "4d": lambda p, q: (p - q).norm(dim=-1),
    "E": lambda p, q: (p[..., 0] - q[..., 0]).abs(),
    "psi": angle,
    "pT": lambda p, q: (transverse_momentum(p) - transverse_momentum(q)).abs(),
    "R": delta_r,
    "col": _area,
    "col3": lambda p, q: (p[..., 1:].norm(dim=-1) * q[..., 1:].norm(dim=-1) - (p * q)[..., 1:].sum(-1)).abs(),
}
assert tuple(MOMENTUM_LOSSES) == tuple(names.MOMENTUM_LOSSES)


def momentum_loss(predicted: Tensor, true: Tensor, terms: dict[str, float]) -> Tensor:
    """Add up the losses in `terms` (name -> weight) for each pair: predicted, true (B, T, 4) -> (B, T)."""
    return sum(weight * MOMENTUM_LOSSES[name](predicted, true) for name, weight in terms.items())
