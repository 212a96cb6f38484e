"""Farthest point sampling.

Source: docs/MATHEMATICS_CLOUDS.md, section 2; Eldar et al. 1997. The compiled kernel skips buckets of
points that a new sample cannot affect (QuickFPS, Han et al. 2023); the indices are those of the plain algorithm.
"""

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.checks import check_k, check_points, checked_lengths, per_event

SCHEMA = "farthest_point_sampling(Tensor points, Tensor lengths, Tensor k, Tensor start, int width) -> Tensor"


def farthest_point_sampling(points: Tensor, lengths: Tensor | None, k: int | Tensor, start: int | Tensor = 0) -> Tensor:
    """Choose points one after another, each the farthest from those before it; return their indices.

    points (B, N, D >= 3) float, of which the first three columns count; lengths (B,) int64 or None (all N);
    k an int or (B,) int64 (its maximum is then read, which waits for a GPU); start the first index, an int or (B,)
    int64, clamped to the event. Returns (B, K) int64, K = k or its maximum.

    Every index appears once: ties go to the lowest index that is not chosen yet, duplicates of chosen points
    included. An event with n < k points has -1 after its n indices. Not differentiable.

    >>> points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]])
    >>> farthest_point_sampling(points, None, k=4)
    tensor([[ 0,  2,  1, -1]])
    """
    check_points("points", points)
    lengths = per_event("lengths", lengths, points, points.shape[1])
    if isinstance(k, Tensor):
        wanted = per_event("k", k, points, 0)
        width = max(0, int(wanted.max())) if wanted.numel() else 0
    else:
        width = check_k(k)
        wanted = per_event("k", width, points, 0)
    first = per_event("start", start, points, 0)
    return torch.ops.puffin.farthest_point_sampling(points.detach(), lengths, wanted, first, width)


def oracle(points: Tensor, lengths: Tensor, k: Tensor, start: Tensor, width: int) -> Tensor:
    """Step through all events together; a chosen point gets distance -1, so it is never the farthest again."""
    batch, size = points.shape[:2]
    lengths = torch.tensor(checked_lengths(lengths, points), device=points.device, dtype=torch.int64)
    out = torch.full((batch, width), -1, device=points.device, dtype=torch.int64)
    if batch == 0 or size == 0:
        return out
    counts = torch.minimum(lengths, k)
    valid = torch.arange(size, device=points.device) < lengths[:, None]
    distance = torch.where(valid, torch.inf, -1.0).to(points.dtype)
    chosen = torch.minimum(start, lengths - 1).clamp(min=0)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    for step in range(min(width, size)):
        out[:, step] = torch.where(step < counts, chosen, -1)
        at = chosen[:, None]
        distance.scatter_(1, at, -1.0)
        dx, dy, dz = x - x.gather(1, at), y - y.gather(1, at), z - z.gather(1, at)
        distance = torch.minimum(distance, dx * dx + dy * dy + dz * dz)
        chosen = distance.argmax(1)  # the first of equals
    return out


def _fake(points: Tensor, lengths: Tensor, k: Tensor, start: Tensor, width: int) -> Tensor:
    return points.new_empty((points.shape[0], width), dtype=torch.int64)


library.define(SCHEMA, oracle, _fake)
