"""Centrality-based non-maximum suppression (C-NMS): spread centres over a cloud, densest regions first.

Source: arXiv 2502.02558, sec. 3; docs/MATHEMATICS_CLOUDS.md, section 2. No neighbour table is built.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.checks import (
    check_points,
    check_radius,
    checked_lengths,
    per_event,
    squared_distances,
    squared_radius,
)
from puffin.ops.neighbors import ball_count_oracle

SCHEMA = "cnms(Tensor points, Tensor lengths, float radius) -> (Tensor, Tensor)"


class Centres(NamedTuple):
    """index (B, N) int64: the points that are centres, ascending, then -1; lengths (B,) int64: number of centres."""

    index: Tensor
    lengths: Tensor


def centrality_nms(points: Tensor, lengths: Tensor | None, radius: float, overlap: float = 0.72) -> Centres:
    """Choose centres so that each point is within the query radius 2 * radius * overlap of a centre.

    points (B, N, D >= 3) float, of which the first three columns count; lengths (B,) int64 or None (all N); radius
    of a token, in the units of the points. The centrality of a point is the number of points at squared distance
    strictly below the squared query radius, itself included. Points are visited by descending centrality, ties by the
    lowest index; a point becomes a centre unless it is suppressed, and a centre suppresses all points within the query
    radius. Not differentiable.

    >>> points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]]])
    >>> centrality_nms(points, None, radius=1.0, overlap=0.6)  # query radius 1.2: point 1 has two neighbours
    Centres(index=tensor([[ 1,  3, -1, -1]]), lengths=tensor([2]))
    """
    check_points("points", points)
    lengths = per_event("lengths", lengths, points, points.shape[1])
    query_radius = 2 * check_radius(radius) * check_radius(overlap)
    return Centres(*torch.ops.puffin.cnms(points.detach(), lengths, query_radius))


def oracle(points: Tensor, lengths: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Run the sequential algorithm; radius is the query radius."""
    index = torch.full(points.shape[:2], -1, device=points.device)
    num_centres = torch.zeros_like(lengths)
    r2 = squared_radius(radius, points.dtype)
    counts = ball_count_oracle(points, points, lengths, lengths, radius)
    for event, size in enumerate(checked_lengths(lengths, points)):
        cloud = points[event, :size]
        candidate = torch.ones(size, dtype=torch.bool, device=points.device)
        centres = []
        for i in counts[event, :size].sort(descending=True, stable=True).indices.tolist():
            if candidate[i]:
                centres.append(i)
                candidate &= ~(squared_distances(cloud[i : i + 1], cloud)[0] < r2)
        index[event, : len(centres)] = torch.tensor(sorted(centres), dtype=torch.int64)
        num_centres[event] = len(centres)
    return index, num_centres


def _fake(points: Tensor, lengths: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    return points.new_empty(points.shape[:2], dtype=torch.int64), torch.empty_like(lengths)


library.define(SCHEMA, oracle, _fake)
