"""Lorentz invariants, symmetry-breaking spurions and IRC-safe weights.  Metric (+, -, -, -).

Source: arXiv 2307.16506, sec. 2 (invariants, spurions) and sec. 6 (IRC safety).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from puffin.layers.packed import to_device
from puffin.layers.pair_geometry import PairGeometry
from puffin.settings.stabilizers import SPURIONS

# stabilizer -> linear forms r(p) whose products r_i r_j are further inputs (rows over E, px, py, pz)
COMPONENTS = SPURIONS | {
    "1_0": ((1.0, 0.0, 0.0, 1.0), (1.0, -1.0, 0.0, 0.0), (1.0, 0.0, -1.0, 0.0), (1.0, 0.0, 0.0, -1.0)),
}
WITHOUT_DOT_PRODUCT = ("1", "1_0")


def _projection(*axes: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(i == j and i in axes) for j in range(4)) for i in range(4))


_UNITS = tuple(_projection(k) for k in range(4))
_AXIAL = (_projection(0), _projection(1, 2), _projection(3))
# stabilizer -> matrices (4, 4) that commute with it: a regressor with --method input weights these parts of a momentum
PROJECTIONS = {
    "so13": (_projection(0, 1, 2, 3),),
    "so3": (_projection(0), _projection(1, 2, 3)),
    "so12": (_projection(0, 1, 2), _projection(3)),
    # the whole momentum, and (E - pz) (1, 0, 0, 1)
    "se2": (_projection(0, 1, 2, 3), ((1.0, 0.0, 0.0, -1.0), (0.0,) * 4, (0.0,) * 4, (1.0, 0.0, 0.0, -1.0))),
    "so2": _AXIAL,
    "so2_0": _AXIAL,
    "R": (_projection(0, 3), _projection(1), _projection(2)),
    **dict.fromkeys(("1", "11", "1_0", "11_0"), _UNITS),
}
# the published regressor splits momenta like this for se2; these matrices do not commute with it
PUBLISHED_PROJECTIONS = PROJECTIONS | {
    "se2": (
        ((0.0, 0.0, 0.0, 1.0), (0.0,) * 4, (0.0,) * 4, (0.0, 0.0, 0.0, 1.0)),
        ((1.0, 0.0, 0.0, -1.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (-1.0, 0.0, 0.0, 0.0)),
    )
}


def minkowski(p: Tensor, q: Tensor) -> Tensor:
    """Return p . q over the last dimension (..., 4), as 2 E E' - (E E' + x x' + y y' + z z').

    In float32 the invariant of two nearly parallel particles is rounding noise, to which trained networks have adapted:
    the order of operations is the published one and must stay.
    """
    e, x, y, z = (p * q).unbind(-1)
    return 2 * e - (e + x + y + z)


def _constant(rows: tuple, like: Tensor) -> Tensor:
    """Return numbers as a tensor, without waiting for a GPU as `like.new_tensor` does."""
    return to_device(torch.tensor(rows, dtype=like.dtype, device="cpu"), like.device)


def num_rank2_inputs(stabilizer: str, method: str) -> int:
    """Return the number of channels of `rank2_inputs`."""
    if method == "spurions":
        return 1
    return len(COMPONENTS[stabilizer]) + (stabilizer not in WITHOUT_DOT_PRODUCT)


def rank2_inputs(p: Tensor, geometry: PairGeometry, stabilizer: str, method: str) -> Tensor:
    """Compute pair features of momenta p (N, 4): r_i r_j for each non-invariant component, then p_i . p_j.

    They are symmetric, so only the pairs of `geometry.ends` are returned: (N + U, K) packed, (n, n, K) dense.
    """
    left, right = geometry.ends(p)
    dots = minkowski(left, right)[..., None]
    if method == "spurions" or not COMPONENTS[stabilizer]:
        return dots
    forms = _constant(COMPONENTS[stabilizer], p).t()
    products = (left @ forms) * (right @ forms)
    return products if stabilizer in WITHOUT_DOT_PRODUCT else torch.cat([products, dots], -1)


class WithSpurions(NamedTuple):
    """A batch with the spurions before the particles of each event."""

    fourmomenta: Tensor  # (N', 4)
    scalars: Tensor | None  # (N', S + 1 + K)
    lengths: Tensor  # (B,) int64, CPU


def prepend_spurions(p: Tensor, scalars: Tensor | None, lengths: Tensor, spurions: tuple) -> WithSpurions:
    """Put the K spurions before the particles of every event, with one-hot labels after the scalars.

    p (N, 4); scalars (N, S) or None; lengths (B,) int64 on the CPU.  Label channel 0 marks particles, channel k the
    k-th spurion.
    """
    num_events, num_spurions = len(lengths), len(spurions)
    total = len(p) + num_events * num_spurions
    events = torch.arange(num_events, device=p.device)
    counts = lengths.to(p.device, non_blocking=True)
    event_of_particle = torch.repeat_interleave(counts, output_size=len(p))
    position = torch.arange(len(p), device=p.device) + num_spurions * (event_of_particle + 1)
    first = (counts.cumsum(0) - counts) + num_spurions * events

    table = _constant(spurions, p)
    momenta = p.new_empty(total, 4)
    momenta[position] = p
    kind = torch.zeros(total, dtype=torch.int64, device=p.device)
    for k in range(num_spurions):
        momenta[first + k] = table[k]
        kind.index_fill_(0, first + k, k + 1)  # unlike an assignment of a number, without a wait for a GPU
    labels = (kind[:, None] == torch.arange(num_spurions + 1, device=p.device)).to(p.dtype)
    if scalars is not None:
        of_rows = p.new_zeros(total, scalars.shape[1]).index_copy(0, position, scalars.to(p.dtype))
        labels = torch.cat([of_rows, labels], 1)
    return WithSpurions(momenta, labels, lengths + num_spurions)


def irc_weights(dots: Tensor, geometry: PairGeometry) -> tuple[Tensor, Tensor]:
    """Compute the weights w_i = sum_j d_ij / sum_ij d_ij (N,), and e_i = sum_j d_ij over the root of the total (N,).

    dots: p_i . p_j with one channel, as from `rank2_inputs`.  e_ij = e_i e_j is the infrared-safe scale of pair (i, j).
    """
    sums = geometry.sum_symmetric_rows(dots)
    total = geometry.to_nodes(geometry.sum_nodes(sums))
    total = torch.where(total == 0, 1, total)  # a lone massless particle has no scale
    return (sums / total)[:, 0], (sums / total.abs().sqrt())[:, 0]


def irc_angles(inputs: Tensor, scale: Tensor, geometry: PairGeometry) -> Tensor:
    """Compute 2 x_ij / (1e-12 + e_ij) for the inputs of `rank2_inputs`: angles, which do not see how energy is shared.

    scale: e_i (N,) of `irc_weights`.
    """
    left, right = geometry.ends(scale)
    return 2 * inputs / (1e-12 + left * right)[..., None]
