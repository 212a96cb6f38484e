"""Pairs of particles, packed: the operations under every PELICAN layer.

A batch of events with n_1, ..., n_B particles (nodes) has N = sum n_b nodes and P = sum n_b^2 ordered pairs.  A rank-2
feature is one (P, C) tensor in three blocks: the N diagonal pairs (i, i); the U = (P - N) / 2 pairs (i, j) with i < j,
event after event, row by row; the same pairs transposed, (j, i), in the same order.  There is no padding, so there is
no mask, and to transpose is to swap two blocks.

*Reduce* and *expand* are each other's gradients; *mix* is all that a layer does to pairs.
Source: arXiv 2307.16506, sec. 3; the packing is ours (docs/architecture.md).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from puffin.ops import library, pair_operators
from puffin.ops.pair_index import PairIndex


class Reduced(NamedTuple):
    """Sums of a pair feature for each node; each (N, C)."""

    diagonal: Tensor
    rows: Tensor
    columns: Tensor


@torch.compiler.disable
def pair_reduce(x: Tensor, pairs: PairIndex, weights: Tensor | None = None) -> Reduced:
    """Return the diagonal, row sums and column sums of a pair feature.

    x (P, C); weights (N,) or None: rows_i = sum_j w_j x_ij, columns_j = sum_i w_i x_ij, with w = 1 where None
    (no gradient flows into the weights).  Returns three (N, C).

    >>> pairs = PairIndex(torch.tensor([2]), torch.device("cpu"))
    >>> x = torch.tensor([[1.0], [4.0], [2.0], [3.0]])  # pairs (0, 0), (1, 1), (0, 1), (1, 0)
    >>> pair_reduce(x, pairs).rows
    tensor([[3.],
            [7.]])
    """
    return pair_sums(x, pairs, weights)[1]


@torch.compiler.disable
def pair_sums(x: Tensor, pairs: PairIndex, weights: Tensor | None = None) -> tuple[Tensor, Reduced]:
    """Return x itself, and `pair_reduce` of it: of bfloat16 in float32, where a kernel adds up.

    Continue with the returned x: the gradients of the sums are then added to that of x in one pass.
    """
    check_rows("x", x, pairs, pairs.num_pairs, "pairs")
    x, *sums = _PairSums.apply(x, pairs, weights)
    return x, Reduced(*sums)


@torch.compiler.disable
def pair_expand(u: Tensor, v: Tensor, w: Tensor, pairs: PairIndex) -> Tensor:
    """Return u_i + v_j + delta_ij w_i at pair (i, j): (P, C) from three (N, C).

    >>> pairs = PairIndex(torch.tensor([2]), torch.device("cpu"))
    >>> u, v, w = torch.tensor([[[1.0], [2.0]], [[10.0], [20.0]], [[0.5], [0.5]]])
    >>> pair_expand(u, v, w, pairs).flatten()  # pairs (0, 0), (1, 1), (0, 1), (1, 0)
    tensor([11.5000, 22.5000, 21.0000, 12.0000])
    """
    for name, value in (("u", u), ("v", v), ("w", w)):
        check_rows(name, value, pairs, pairs.num_nodes, "nodes")
    return _PairExpand.apply(u, v, w, pairs)


@torch.compiler.disable
def pair_mix(
    x: Tensor,
    weight: Tensor,
    weight_t: Tensor,
    nodes: tuple[Tensor, Tensor, Tensor | None],
    pairs: PairIndex,
    slope: float = 1.0,
) -> Tensor:
    """Return x_ij W + x_ji W' + u_i + v_j + delta_ij w_i after a leaky ReLU (slope 1: none): the n x n part of Eq2to2.

    x (P, C); weight, weight_t (C, S); nodes = (u, v, w), each (N, S), w may be None.  Returns (P, S).
    Computed as (x_ij + x_ji) (W + W') / 2 + (x_ij - x_ji) (W - W') / 2: the transposed pair has the same two products
    with one sign changed, half the multiplications.  Follows autocast: a kernel then reads and writes tables of
    bfloat16, and leaves nodes and the gradients of weights in float32.
    """
    return mix_even_odd(x, (weight + weight_t) / 2, (weight - weight_t) / 2, nodes, pairs, slope)


@torch.compiler.disable
def mix_even_odd(
    x: Tensor,
    even: Tensor,
    odd: Tensor,
    nodes: tuple[Tensor, Tensor, Tensor | None],
    pairs: PairIndex,
    slope: float = 1.0,
) -> Tensor:
    """Return `pair_mix` for (W + W') / 2 and (W - W') / 2, (C, S) each."""
    check_rows("x", x, pairs, pairs.num_pairs, "pairs")
    return _PairMix.apply(x, even, odd, *nodes, pairs, slope)


@torch.compiler.disable
def pair_extremum(x: Tensor, pairs: PairIndex, largest: bool) -> tuple[Tensor, Tensor]:
    """Return the largest (or smallest) entry of every row and column: two (N, C).  Tied entries share the gradient."""
    check_rows("x", x, pairs, pairs.num_pairs, "pairs")
    out = x.new_zeros(pairs.num_nodes, x.shape[1])
    kind = "amax" if largest else "amin"
    return tuple(
        out.scatter_reduce(0, index[:, None].expand_as(x), x, kind, include_self=False)
        for index in (pairs.row, pairs.column)
    )


def check_rows(name: str, x: Tensor, pairs: PairIndex, rows: int, of: str) -> None:
    if x.dim() != 2 or x.shape[0] != rows:
        raise ValueError(f"{name}: expected ({rows}, C), one row for each of the {rows} {of}, got {tuple(x.shape)}")
    if x.device.type != pairs.device.type or pairs.device.index not in (None, x.device.index):
        raise ValueError(f"{name}: expected device {pairs.device} like the pairs, got {x.device}; move it")


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pairs, weights):
        ctx.pairs, ctx.weights = pairs, weights
        ctx.set_materialize_grads(False)
        return x.view_as(x), *pair_operators.reduce(x, weights, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *grads_of_sums):
        some = next((g for g in grads_of_sums if g is not None), None)
        if some is None:
            return grad, None, None
        diagonal, rows, columns = (torch.zeros_like(some) if g is None else g for g in grads_of_sums)
        return pair_operators.expand(rows, columns, diagonal, ctx.weights, grad, ctx.pairs), None, None


class _PairExpand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, v, w, pairs):
        ctx.pairs = pairs
        return pair_operators.expand(u, v, w, None, None, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        diagonal, rows, columns = pair_operators.reduce(grad, None, ctx.pairs)
        return rows, columns, diagonal if ctx.needs_input_grad[2] else None, None


class _PairMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, even, odd, u, v, w, pairs, slope):
        device_type = x.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
        # autocast does not cast the arguments of kernels and of in-place products
        with torch.autocast(device_type, enabled=False):
            x = x.to(dtype)
            wide = pair_operators.dtype_of_sums(x) if library.has_kernel(x) else dtype
            even, odd, u, v, w = (t if t is None else t.to(wide) for t in (even, odd, u, v, w))
            out = pair_operators.mix(x, even, odd, u, v, w, slope, pairs)
        ctx.pairs, ctx.slope = pairs, slope
        ctx.save_for_backward(out if slope != 1 else None, x, even, odd)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        out, x, even, odd = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous()
        *gradients, diagonal = pair_operators.mix_backward(
            grad, grad if out is None else out, x, even, odd, ctx.slope, ctx.pairs, ctx.needs_input_grad[0]
        )
        return *gradients, diagonal if ctx.needs_input_grad[5] else None, None, None
