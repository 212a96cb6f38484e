"""Pairs of particles, packed: the primitives under every PELICAN layer.

A batch of events with n_1, ..., n_B particles (nodes) has N = sum n_b nodes and P = sum n_b^2 ordered pairs.  A rank-2
feature is one (P, C) tensor in three blocks: the N diagonal pairs (i, i); the U = (P - N) / 2 pairs (i, j) with i < j,
event after event, row by row; the same pairs transposed, (j, i), in the same order.  There is no padding, so there is
no mask, and to transpose is to swap two blocks.

The primitives: *reduce* and *expand* are each other's gradients, *transpose* is its own, *mix* is all that a layer
does to pairs.  Source: arXiv 2307.16506, sec. 3; the packing is ours (docs/ARCHITECTURE.md).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PairIndex:
    """Where the pairs of a batch lie.

    lengths (B,) int64 on the CPU: nodes per event, zero allowed.  device: where the features live.
    Index tensors are made on first use, without asking the device for a size.
    """

    lengths: Tensor
    device: torch.device

    @cached_property
    def num_nodes(self) -> int:
        """N."""
        return int(self.lengths.sum())

    @cached_property
    def num_pairs(self) -> int:
        """P."""
        return int((self.lengths * self.lengths).sum())

    @cached_property
    def num_upper(self) -> int:
        """U, pairs above the diagonal."""
        return (self.num_pairs - self.num_nodes) // 2

    @cached_property
    def counts(self) -> Tensor:
        """Nodes per event (B,) int64 on the device."""
        return self.lengths.to(self.device, non_blocking=True)

    @cached_property
    def node_ptr(self) -> Tensor:
        """First node of each event (B + 1,)."""
        return F.pad(self.counts.cumsum(0), (1, 0))

    @cached_property
    def event_of_node(self) -> Tensor:
        """(N,) event of each node."""
        return torch.repeat_interleave(self.counts, output_size=self.num_nodes)

    @cached_property
    def event_of_pair(self) -> Tensor:
        """(P,) event of each pair."""
        return self.event_of_node[self.row]

    @cached_property
    def _upper(self) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes i and j of the pairs above the diagonal (U,), and where the run of each node i starts (N,)."""
        nodes = torch.arange(self.num_nodes, device=self.device)
        later = self.node_ptr[1:][self.event_of_node] - nodes - 1  # nodes of the same event after node i
        start = later.cumsum(0) - later
        row = torch.repeat_interleave(later, output_size=self.num_upper)
        column = torch.arange(self.num_upper, device=self.device) - (start - nodes - 1)[row]
        return row, column, start

    @cached_property
    def row(self) -> Tensor:
        """(P,) node i of each pair (i, j)."""
        return torch.cat([torch.arange(self.num_nodes, device=self.device), self._upper[0], self._upper[1]])

    @cached_property
    def column(self) -> Tensor:
        """(P,) node j of each pair (i, j)."""
        return torch.cat([torch.arange(self.num_nodes, device=self.device), self._upper[1], self._upper[0]])

    @cached_property
    def rows_then_columns(self) -> tuple[Tensor, Tensor]:
        """Bags that sum the rows, then the columns: positions (2P,) and first entry of each bag (2N + 1,)."""
        per_node = self.counts[self.event_of_node]
        ptr = F.pad(per_node.cumsum(0), (1, 0))
        i = torch.repeat_interleave(per_node, output_size=self.num_pairs)
        j = torch.arange(self.num_pairs, device=self.device) - (ptr[:-1] - self.node_ptr[self.event_of_node])[i]
        start = self._upper[2] - torch.arange(self.num_nodes, device=self.device) - 1
        first, second = torch.minimum(i, j), torch.maximum(i, j)
        above = start[first] + second + self.num_nodes
        row = torch.where(i < j, above, above + self.num_upper)
        column = torch.where(i < j, above + self.num_upper, above)
        diagonal = i == j
        positions = torch.cat([torch.where(diagonal, i, row), torch.where(diagonal, i, column)])
        return positions, torch.cat([ptr, ptr[1:] + self.num_pairs])

    @cached_property
    def row_and_column(self) -> tuple[Tensor, Tensor]:
        """Bags that gather u_i and v_j for each pair from stacked [u; v]: (2P,) and (P + 1,)."""
        nodes = torch.stack([self.row, self.column + self.num_nodes], 1).flatten()
        return nodes, torch.arange(0, 2 * self.num_pairs + 1, 2, device=self.device)

    def blocks(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of the diagonal, the upper and the lower pairs of x (P, C)."""
        return x.split((self.num_nodes, self.num_upper, self.num_upper))


class Reduced(NamedTuple):
    """What a pair feature looks like from its nodes; each (N, C)."""

    diagonal: Tensor
    rows: Tensor
    columns: Tensor


def _sum_bags(table: Tensor, bags: tuple[Tensor, Tensor], weights: Tensor | None = None) -> Tensor:
    # embedding_bag reads each row once and keeps its sums in registers: the fastest gather-and-sum in plain PyTorch
    return F.embedding_bag(bags[0], table, bags[1], mode="sum", per_sample_weights=weights, include_last_offset=True)


def _reduce(x: Tensor, pairs: PairIndex, weights: Tensor | None) -> Reduced:
    x = x.contiguous()
    if pairs.num_pairs == 0:
        return Reduced(*(x.new_zeros(pairs.num_nodes, x.shape[1]) for _ in range(3)))
    if weights is not None:
        positions = pairs.rows_then_columns[0]
        other = torch.cat([pairs.column[positions[: pairs.num_pairs]], pairs.row[positions[pairs.num_pairs :]]])
        weights = weights[other]
    sums = _sum_bags(x, pairs.rows_then_columns, weights)
    return Reduced(pairs.blocks(x)[0].clone(), sums[: pairs.num_nodes], sums[pairs.num_nodes :])


def _expand(u: Tensor, v: Tensor, w: Tensor | None, pairs: PairIndex) -> Tensor:
    if pairs.num_pairs == 0:
        return u.new_zeros(0, u.shape[1])
    out = _sum_bags(torch.cat([u, v]), pairs.row_and_column)
    if w is not None:
        pairs.blocks(out)[0].add_(w)
    return out


class _PairReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pairs, weights):
        ctx.pairs, ctx.weights = pairs, weights
        return tuple(_reduce(x, pairs, weights))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_diagonal, grad_rows, grad_columns):
        if ctx.weights is None:
            return _expand(grad_rows, grad_columns, grad_diagonal, ctx.pairs), None, None
        # d rows_i / d x_ij = w_j and d columns_j / d x_ij = w_i
        w, p = ctx.weights[:, None], ctx.pairs
        grad = grad_rows[p.row] * w[p.column] + grad_columns[p.column] * w[p.row]
        p.blocks(grad)[0].add_(grad_diagonal)
        return grad, None, None


class _PairExpand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, v, w, pairs):
        ctx.pairs = pairs
        return _expand(u, v, w, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        diagonal, rows, columns = _reduce(grad, ctx.pairs, None)
        return rows, columns, diagonal if ctx.needs_input_grad[2] else None, None


class _PairMix(torch.autograd.Function):
    """x_ij W + x_ji W' as (x_ij + x_ji) (W + W') / 2 + (x_ij - x_ji) (W - W') / 2.

    The transposed pair has the same two products with one sign changed: half the multiplications."""

    @staticmethod
    def forward(ctx, x, weight, weight_t, u, v, w, pairs):
        device_type = x.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
        # autocast is handled here, as in-place products are not cast for us
        with torch.autocast(device_type, enabled=False):
            x, weight, weight_t = x.to(dtype), weight.to(dtype), weight_t.to(dtype)
            out = _expand(u.to(dtype), v.to(dtype), None if w is None else w.to(dtype), pairs)
            diagonal, upper, lower = pairs.blocks(x)
            out_diagonal, out_upper, out_lower = pairs.blocks(out)
            out_diagonal.addmm_(diagonal, weight + weight_t)
            even = (upper + lower) @ ((weight + weight_t) / 2)
            odd = (upper - lower) @ ((weight - weight_t) / 2)
            out_lower.add_(even).sub_(odd)
            out_upper.add_(even.add_(odd))
        ctx.pairs = pairs
        ctx.save_for_backward(x, weight, weight_t)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight, weight_t = ctx.saved_tensors
        pairs, needs = ctx.pairs, ctx.needs_input_grad
        grad = grad.to(x.dtype).contiguous()
        diagonal, upper, lower = pairs.blocks(x)
        grad_diagonal, grad_upper, grad_lower = pairs.blocks(grad)
        even, odd = grad_upper + grad_lower, grad_upper - grad_lower
        grad_even = (upper + lower).t() @ even
        grad_odd = (upper - lower).t() @ odd
        grad_both = diagonal.t() @ grad_diagonal
        grad_x = None
        if needs[0]:
            grad_x = torch.empty_like(x)
            x_diagonal, x_upper, x_lower = pairs.blocks(grad_x)
            torch.mm(grad_diagonal, (weight + weight_t).t(), out=x_diagonal)
            even, odd = even @ ((weight + weight_t) / 2).t(), odd @ ((weight - weight_t) / 2).t()
            torch.add(even, odd, out=x_upper)
            torch.sub(even, odd, out=x_lower)
        of_nodes = _reduce(grad, pairs, None)
        return (
            grad_x,
            (grad_even + grad_odd) / 2 + grad_both,
            (grad_even - grad_odd) / 2 + grad_both,
            of_nodes.rows,
            of_nodes.columns,
            of_nodes.diagonal if needs[5] else None,
            None,
        )


@torch.compiler.disable
def pair_reduce(x: Tensor, pairs: PairIndex, weights: Tensor | None = None) -> Reduced:
    """Diagonal, row sums and column sums of a pair feature.

    x (P, C); weights (N,) or None: rows_i = sum_j w_j x_ij, columns_j = sum_i w_i x_ij, with w = 1 where None
    (no gradient flows into the weights).  Returns three (N, C).
    """
    _check_rows("x", x, pairs.num_pairs, "pairs")
    return Reduced(*_PairReduce.apply(x, pairs, weights))


@torch.compiler.disable
def pair_expand(u: Tensor, v: Tensor, w: Tensor, pairs: PairIndex) -> Tensor:
    """(P, C) with u_i + v_j + delta_ij w_i at pair (i, j); u, v, w are (N, C)."""
    for name, value in (("u", u), ("v", v), ("w", w)):
        _check_rows(name, value, pairs.num_nodes, "nodes")
    return _PairExpand.apply(u, v, w, pairs)


@torch.compiler.disable
def pair_transpose(x: Tensor, pairs: PairIndex) -> Tensor:
    """(P, C) with x_ji at pair (i, j)."""
    _check_rows("x", x, pairs.num_pairs, "pairs")
    diagonal, upper, lower = pairs.blocks(x)
    return torch.cat([diagonal, lower, upper])


@torch.compiler.disable
def pair_mix(
    x: Tensor, weight: Tensor, weight_t: Tensor, nodes: tuple[Tensor, Tensor, Tensor | None], pairs: PairIndex
) -> Tensor:
    """The n x n part of Eq2to2 at once: x_ij W + x_ji W_t + u_i + v_j + delta_ij w_i.

    x (P, C); weight, weight_t (C, S); nodes = (u, v, w), each (N, S), w may be None.  Returns (P, S).
    Fused so that the result is written once and the gradient of x is summed in place.  Follows autocast.
    """
    _check_rows("x", x, pairs.num_pairs, "pairs")
    return _PairMix.apply(x, weight, weight_t, *nodes, pairs)


@torch.compiler.disable
def pair_extremum(x: Tensor, pairs: PairIndex, largest: bool) -> tuple[Tensor, Tensor]:
    """Largest (or smallest) entry of every row and column: two (N, C).  Tied entries share the gradient."""
    _check_rows("x", x, pairs.num_pairs, "pairs")
    return tuple(segment_extremum(x, index, pairs.num_nodes, largest) for index in (pairs.row, pairs.column))


def segment_sum(x: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """(num_segments, C): sums of the rows of x (M, C) that share a segment (M,)."""
    return x.new_zeros(num_segments, x.shape[1]).index_add(0, segment, x)


def segment_extremum(x: Tensor, segment: Tensor, num_segments: int, largest: bool) -> Tensor:
    """(num_segments, C): extremum over the rows of x (M, C) of each segment; 0 for an empty one.

    Tied entries share the gradient equally."""
    index = segment[:, None].expand_as(x)
    return x.new_zeros(num_segments, x.shape[1]).scatter_reduce(
        0, index, x, "amax" if largest else "amin", include_self=False
    )


def _check_rows(name: str, x: Tensor, rows: int, of: str) -> None:
    if x.dim() != 2 or x.shape[0] != rows:
        raise ValueError(f"{name}: expected ({rows}, C), one row for each of the {rows} {of}, got {tuple(x.shape)}")
