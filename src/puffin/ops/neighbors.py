"""k nearest neighbours, ball query and ball count between two clouds of an event.

Source: docs/MATHEMATICS_CLOUDS.md, section 2. Distances use the first three columns, see src/puffin/ops/checks.py.
The CPU kernel builds a tree of median-split buckets and walks it once per bucket of queries: near-linear time, linear
memory for any extent or density. The CUDA kernel uses boxes around blocks of 32, 1024 and 32768 points.
"""

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.checks import (
    check_alike,
    check_k,
    check_points,
    check_radius,
    checked_lengths,
    chunks,
    per_event,
    squared_distances,
    squared_radius,
)

PAIR = "Tensor queries, Tensor points, Tensor lengths1, Tensor lengths2"
KNN_SCHEMA = f"knn({PAIR}, int k) -> (Tensor, Tensor)"
BALL_COUNT_SCHEMA = f"ball_count({PAIR}, float radius) -> Tensor"
BALL_QUERY_SCHEMA = f"ball_query({PAIR}, float radius, int k) -> Tensor"


def knn(
    queries: Tensor, points: Tensor, lengths1: Tensor | None, lengths2: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """Find the k nearest points of every query: squared distances (B, M, k), ascending, and indices (B, M, k) int64.

    queries (B, M, D >= 3), points (B, N, D >= 3); lengths1, lengths2 (B,) int64 or None (all). Ties go to the lowest
    index. Where there are fewer than k points, and in rows of padding, the index is -1 and the distance infinite (so
    a weight 1/(d + eps) vanishes). Not differentiable.

    >>> points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]])
    >>> knn(points[:, :1], points, None, None, k=2)
    (tensor([[[0., 1.]]]), tensor([[[0, 1]]]))
    """
    queries, points, lengths1, lengths2 = _pair(queries, points, lengths1, lengths2)
    return torch.ops.puffin.knn(queries, points, lengths1, lengths2, check_k(k))


def ball_count(
    queries: Tensor, points: Tensor, radius: float, lengths1: Tensor | None = None, lengths2: Tensor | None = None
) -> Tensor:
    """Count the points at squared distance strictly below radius^2 of every query: (B, M) int64, 0 in rows of padding.

    Shapes as in knn. The radius is rounded to the dtype of the points and squared there. Not differentiable.

    >>> points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]])
    >>> ball_count(points, points, radius=2.0)
    tensor([[2, 2, 1]])
    """
    queries, points, lengths1, lengths2 = _pair(queries, points, lengths1, lengths2)
    return torch.ops.puffin.ball_count(queries, points, lengths1, lengths2, check_radius(radius))


def ball_query(
    queries: Tensor,
    points: Tensor,
    radius: float,
    k: int | None = None,
    lengths1: Tensor | None = None,
    lengths2: Tensor | None = None,
) -> Tensor:
    """Find the first k points, by index, at squared distance strictly below radius^2 of every query: (B, M, k) int64.

    Shapes as in knn. Indices ascend (they are not the nearest k); -1 fills the rest. k = None takes all: the largest
    count is then read first, which waits for a GPU and breaks a compiled graph. Not differentiable.

    >>> points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]])
    >>> ball_query(points, points, radius=2.0)
    tensor([[[ 0,  1],
             [ 0,  1],
             [ 2, -1]]])
    """
    queries, points, lengths1, lengths2 = _pair(queries, points, lengths1, lengths2)
    radius = check_radius(radius)
    if k is None:
        counts = torch.ops.puffin.ball_count(queries, points, lengths1, lengths2, radius)
        k = int(counts.max()) if counts.numel() else 0
    return torch.ops.puffin.ball_query(queries, points, lengths1, lengths2, radius, check_k(k))


def _pair(queries, points, lengths1, lengths2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_points("queries", queries)
    check_points("points", points)
    check_alike("points", points, "queries", queries)
    lengths1 = per_event("lengths1", lengths1, queries, queries.shape[1])
    lengths2 = per_event("lengths2", lengths2, points, points.shape[1])
    return queries.detach(), points.detach(), lengths1, lengths2


def _blocks(queries: Tensor, points: Tensor, lengths1: Tensor, lengths2: Tensor):
    """Yield (event, slice of its queries, squared distances (rows, n)) for every block of every event."""
    for event, (m, n) in enumerate(
        zip(checked_lengths(lengths1, queries), checked_lengths(lengths2, points), strict=False)
    ):
        for rows in chunks(m, n):
            yield event, rows, squared_distances(queries[event, rows], points[event, :n])


def _rank_in_row(row: Tensor, rows: int) -> Tensor:
    """Number the entries of each row 0, 1, 2, ...; row: ascending row numbers."""
    counts = torch.bincount(row, minlength=rows)
    return torch.arange(row.numel(), device=row.device) - (counts.cumsum(0) - counts)[row]


def knn_oracle(queries: Tensor, points: Tensor, lengths1: Tensor, lengths2: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest points in plain PyTorch: see `knn`."""
    shape = (*queries.shape[:2], k)
    distance = queries.new_full(shape, torch.inf)
    index = torch.full(shape, -1, device=queries.device)
    for event, rows, d in _blocks(queries, points, lengths1, lengths2):
        width = min(k, d.shape[1])
        if width == 0:
            continue
        # take all points up to the distance of the k-th (more than k if distances tie), then the first k by (d, index)
        row, column = (d <= d.topk(width, largest=False).values[:, -1:]).nonzero(as_tuple=True)
        candidates = d[row, column]
        order = candidates.sort(stable=True).indices
        order = order[row[order].sort(stable=True).indices]
        rank = _rank_in_row(row, d.shape[0])
        first = rank < width
        to = row[first], rank[first]
        distance[event, rows][to] = candidates[order][first]
        index[event, rows][to] = column[order][first]
    return distance, index


def ball_count_oracle(queries: Tensor, points: Tensor, lengths1: Tensor, lengths2: Tensor, radius: float) -> Tensor:
    """Count points in plain PyTorch: see `ball_count`."""
    counts = torch.zeros(queries.shape[:2], dtype=torch.int64, device=queries.device)
    r2 = squared_radius(radius, queries.dtype)
    for event, rows, d in _blocks(queries, points, lengths1, lengths2):
        counts[event, rows] = (d < r2).sum(1)
    return counts


def ball_query_oracle(
    queries: Tensor, points: Tensor, lengths1: Tensor, lengths2: Tensor, radius: float, k: int
) -> Tensor:
    """Find the points of balls in plain PyTorch: see `ball_query`."""
    index = torch.full((*queries.shape[:2], k), -1, device=queries.device)
    r2 = squared_radius(radius, queries.dtype)
    for event, rows, d in _blocks(queries, points, lengths1, lengths2):
        inside = d < r2
        row, column = inside.nonzero(as_tuple=True)  # row by row, columns ascending
        rank = _rank_in_row(row, d.shape[0])
        first = rank < k
        index[event, rows][row[first], rank[first]] = column[first]
    return index


def _knn_fake(queries, points, lengths1, lengths2, k):
    shape = (*queries.shape[:2], k)
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)


def _ball_count_fake(queries, points, lengths1, lengths2, radius):
    return queries.new_empty(queries.shape[:2], dtype=torch.int64)


def _ball_query_fake(queries, points, lengths1, lengths2, radius, k):
    return queries.new_empty((*queries.shape[:2], k), dtype=torch.int64)


library.define(KNN_SCHEMA, knn_oracle, _knn_fake)
library.define(BALL_COUNT_SCHEMA, ball_count_oracle, _ball_count_fake)
library.define(BALL_QUERY_SCHEMA, ball_query_oracle, _ball_query_fake)
