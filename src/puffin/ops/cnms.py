"""Centrality-based non-maximum suppression (C-NMS): spread centres over a cloud, densest places first.

Source: arXiv 2502.02558, sec. 3; spec/polarmae.md section 2. No neighbour table is built.
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


class Kept(NamedTuple):
    """index (B, N) int64: the kept points in ascending order, then -1; lengths (B,) int64: how many are kept."""

    index: Tensor
    lengths: Tensor


def cnms(points: Tensor, lengths: Tensor | None, radius: float, overlap: float = 0.72) -> Kept:
    """Keeps points so that each point is within the query radius 2 * radius * overlap of a kept one.

    points (B, N, D >= 3) float, of which the first three columns count; lengths (B,) int64 or None (all N); radius
    of a token, in the units of the points. Centrality = number of points at squared distance strictly below the
    squared query radius, the point itself included. Points are visited by descending centrality, ties by the lowest
    index; a point is kept unless suppressed, and a kept point suppresses all points within the query radius.
    """
    check_points("points", points)
    lengths = per_event("lengths", lengths, points, points.shape[1])
    query_radius = 2 * check_radius(radius) * check_radius(overlap)
    return Kept(*torch.ops.puffin.cnms(points.detach(), lengths, query_radius))


def oracle(points: Tensor, lengths: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The sequential algorithm; radius is the query radius."""
    index = torch.full(points.shape[:2], -1, device=points.device)
    kept = torch.zeros_like(lengths)
    r2 = squared_radius(radius, points.dtype)
    counts = ball_count_oracle(points, points, lengths, lengths, radius)
    for event, size in enumerate(checked_lengths(lengths, points)):
        cloud = points[event, :size]
        alive = torch.ones(size, dtype=torch.bool, device=points.device)
        centres = []
        for i in counts[event, :size].sort(descending=True, stable=True).indices.tolist():
            if alive[i]:
                centres.append(i)
                alive &= ~(squared_distances(cloud[i : i + 1], cloud)[0] < r2)
        index[event, : len(centres)] = torch.tensor(sorted(centres), dtype=torch.int64)
        kept[event] = len(centres)
    return index, kept


def _fake(points: Tensor, lengths: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    return points.new_empty(points.shape[:2], dtype=torch.int64), torch.empty_like(lengths)


library.define(SCHEMA, oracle, _fake)
