"""Pairs of particles, packed: the primitives under every PELICAN layer.

A batch of events with n_1, ..., n_B particles (nodes) has N = sum n_b nodes and P = sum n_b^2 ordered pairs.  A rank-2
feature is one (P, C) tensor in three blocks: the N diagonal pairs (i, i); the U = (P - N) / 2 pairs (i, j) with i < j,
event after event, row by row; the same pairs transposed, (j, i), in the same order.  There is no padding, so there is
no mask, and to transpose is to swap two blocks.

The primitives: *reduce* and *expand* are each other's gradients, *mix* is all that a layer does to
pairs.  Source: arXiv 2307.16506, sec. 3; the packing is ours (docs/ARCHITECTURE.md).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.ops import library
from puffin.ops.pair_index import PairIndex

REDUCE = "pair_reduce(Tensor x, Tensor? weights, Tensor node_ptr, Tensor upper_ptr, int num_nodes) -> (Tensor, Tensor, Tensor)"
EXPAND = (
    "pair_expand(Tensor u, Tensor v, Tensor? w, Tensor? weights, Tensor? base, Tensor node_ptr, Tensor upper_ptr, "
    "int num_upper) -> Tensor"
)
MIX = (
    "pair_mix(Tensor x, Tensor even, Tensor odd, Tensor u, Tensor v, Tensor? w, Tensor node_ptr, Tensor upper_ptr, "
    "float slope) -> Tensor"
)
MIX_BACKWARD = (
    "pair_mix_backward(Tensor grad, Tensor y, Tensor x, Tensor even, Tensor odd, Tensor node_ptr, Tensor upper_ptr, "
    "int num_nodes, float slope) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


class Reduced(NamedTuple):
    """What a pair feature looks like from its nodes; each (N, C)."""

    diagonal: Tensor
    rows: Tensor
    columns: Tensor


# -- plain PyTorch: the oracle, and the way of devices and types without compiled kernels ---------------------------


def _sum_bags(table: Tensor, bags: tuple[Tensor, Tensor], weights: Tensor | None = None) -> Tensor:
    # embedding_bag reads each row once and keeps its sums in registers: the fastest gather-and-sum in plain PyTorch
    return F.embedding_bag(bags[0], table, bags[1], mode="sum", per_sample_weights=weights, include_last_offset=True)


def _plain_reduce(x: Tensor, pairs: PairIndex, weights: Tensor | None) -> Reduced:
    if pairs.num_pairs == 0:
        return Reduced(*(x.new_zeros(pairs.num_nodes, x.shape[1]) for _ in range(3)))
    if weights is not None:
        positions = pairs.rows_then_columns[0]
        other = torch.cat([pairs.column[positions[: pairs.num_pairs]], pairs.row[positions[pairs.num_pairs :]]])
        weights = weights[other].to(x.dtype)
    sums = _sum_bags(x.contiguous(), pairs.rows_then_columns, weights)
    return Reduced(pairs.blocks(x)[0].clone(), sums[: pairs.num_nodes].clone(), sums[pairs.num_nodes :].clone())


def _plain_expand(u: Tensor, v: Tensor, w: Tensor | None, weights: Tensor | None, pairs: PairIndex) -> Tensor:
    if pairs.num_pairs == 0:
        return u.new_zeros(0, u.shape[1])
    if weights is None:
        out = _sum_bags(torch.cat([u, v]), pairs.row_and_column)
    else:
        out = u[pairs.row] * weights[pairs.column, None] + v[pairs.column] * weights[pairs.row, None]
    if w is not None:
        pairs.blocks(out)[0].add_(w)
    return out


def _compiled(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.float64) and library.loaded(x.device.type.upper())


def _reduce(x: Tensor, pairs: PairIndex, weights: Tensor | None) -> Reduced:
    if _compiled(x):
        return Reduced(*torch.ops.puffin.pair_reduce(x, weights, pairs.node_ptr, pairs.upper_ptr, pairs.num_nodes))
    return _plain_reduce(x, pairs, weights)


def _expand(
    u: Tensor, v: Tensor, w: Tensor | None, pairs: PairIndex, weights: Tensor | None = None, base: Tensor | None = None
) -> Tensor:
    if _compiled(u):
        where = (pairs.node_ptr, pairs.upper_ptr, pairs.num_upper)
        return torch.ops.puffin.pair_expand(u, v, w, weights, base, *where)
    out = _plain_expand(u, v, w, weights, pairs)
    return out if base is None else out.add_(base)


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pairs, weights):
        ctx.pairs, ctx.weights = pairs, weights
        ctx.set_materialize_grads(False)
        return x.view_as(x), *_reduce(x, pairs, weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_diagonal, grad_rows, grad_columns):
        given = [g for g in (grad_diagonal, grad_rows, grad_columns) if g is not None]
        if not given:
            return grad, None, None
        diagonal, rows, columns = (
            torch.zeros_like(given[0]) if g is None else g for g in (grad_diagonal, grad_rows, grad_columns)
        )
        return _expand(rows, columns, diagonal, ctx.pairs, ctx.weights, grad), None, None


class _PairExpand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, v, w, pairs):
        ctx.pairs = pairs
        return _plain_expand(u, v, w, None, pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        diagonal, rows, columns = _plain_reduce(grad, ctx.pairs, None)
        return rows, columns, diagonal if ctx.needs_input_grad[2] else None, None


def _plain_mix(x: Tensor, even: Tensor, odd: Tensor, out: Tensor, pairs: PairIndex) -> Tensor:
    """Add (x_ij + x_ji) E + (x_ij - x_ji) O to out, in place."""
    diagonal, upper, lower = pairs.blocks(x)
    out_diagonal, out_upper, out_lower = pairs.blocks(out)
    out_diagonal.addmm_(diagonal, even, alpha=2)
    sums, differences = (upper + lower) @ even, (upper - lower) @ odd
    out_lower.add_(sums).sub_(differences)
    out_upper.add_(sums.add_(differences))
    return out


def _plain_mix_backward(grad: Tensor, x: Tensor, even: Tensor, odd: Tensor, pairs: PairIndex, needs_x: bool = True):
    """Gradients of x (or None), E and O."""
    diagonal, upper, lower = pairs.blocks(x)
    grad_diagonal, grad_upper, grad_lower = pairs.blocks(grad)
    sums, differences = grad_upper + grad_lower, grad_upper - grad_lower
    grad_even = torch.addmm((upper + lower).t() @ sums, diagonal.t(), grad_diagonal, alpha=2)
    grad_odd = (upper - lower).t() @ differences
    if not needs_x:
        return None, grad_even, grad_odd
    grad_x = torch.empty_like(x)
    x_diagonal, x_upper, x_lower = pairs.blocks(grad_x)
    torch.mm(grad_diagonal, 2 * even.t(), out=x_diagonal)
    sums, differences = sums @ even.t(), differences @ odd.t()
    torch.add(sums, differences, out=x_upper)
    torch.sub(sums, differences, out=x_lower)
    return grad_x, grad_even, grad_odd


class _PairMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, even, odd, u, v, w, pairs, slope):
        device_type = x.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
        # autocast is handled here, as in-place products are not cast for us
        with torch.autocast(device_type, enabled=False):
            x, even, odd = x.to(dtype), even.to(dtype), odd.to(dtype)
            out = _expand(u.to(dtype), v.to(dtype), None if w is None else w.to(dtype), pairs)
            _plain_mix(x, even, odd, out, pairs)
        if slope != 1:
            F.leaky_relu_(out, slope)
        ctx.pairs, ctx.slope = pairs, slope
        ctx.save_for_backward(out if slope != 1 else None, x, even, odd)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        out, x, even, odd = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous()
        if out is not None:
            grad = torch.ops.aten.leaky_relu_backward(grad, out, ctx.slope, True)
        gradients = _plain_mix_backward(grad, x, even, odd, ctx.pairs, ctx.needs_input_grad[0])
        diagonal, rows, columns = _reduce(grad, ctx.pairs, None)
        return *gradients, rows, columns, diagonal if ctx.needs_input_grad[5] else None, None, None


# -- the public face -----------------------------------------------------------------------------------------------


@torch.compiler.disable
def pair_reduce(x: Tensor, pairs: PairIndex, weights: Tensor | None = None) -> Reduced:
    """Diagonal, row sums and column sums of a pair feature.

    x (P, C); weights (N,) or None: rows_i = sum_j w_j x_ij, columns_j = sum_i w_i x_ij, with w = 1 where None
    (no gradient flows into the weights).  Returns three (N, C).
    """
    return pair_sums(x, pairs, weights)[1]


@torch.compiler.disable
def pair_sums(x: Tensor, pairs: PairIndex, weights: Tensor | None = None) -> tuple[Tensor, Reduced]:
    """x itself, and `pair_reduce` of it.

    Who needs both and goes on with this x has the gradients of the sums added to that of x in one pass."""
    _check_rows("x", x, pairs.num_pairs, "pairs")
    x, *sums = _PairSums.apply(x, pairs, weights)
    return x, Reduced(*sums)


@torch.compiler.disable
def pair_expand(u: Tensor, v: Tensor, w: Tensor, pairs: PairIndex) -> Tensor:
    """(P, C) with u_i + v_j + delta_ij w_i at pair (i, j); u, v, w are (N, C)."""
    for name, value in (("u", u), ("v", v), ("w", w)):
        _check_rows(name, value, pairs.num_nodes, "nodes")
    if _compiled(u):
        return _expand(u, v, w, pairs)
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
    """The n x n part of Eq2to2 at once: x_ij W + x_ji W' + u_i + v_j + delta_ij w_i, then a leaky ReLU (slope 1: none).

    x (P, C); weight, weight_t (C, S); nodes = (u, v, w), each (N, S), w may be None.  Returns (P, S).
    Computed as (x_ij + x_ji) (W + W') / 2 + (x_ij - x_ji) (W - W') / 2: the transposed pair has the same two products
    with one sign changed, half the multiplications.  Follows autocast.
    """
    _check_rows("x", x, pairs.num_pairs, "pairs")
    even, odd = (weight + weight_t) / 2, (weight - weight_t) / 2
    if x.device.type == "cpu" and _compiled(x) and not torch.is_autocast_enabled("cpu"):
        return torch.ops.puffin.pair_mix(x, even, odd, *nodes, pairs.node_ptr, pairs.upper_ptr, slope)
    return _PairMix.apply(x, even, odd, *nodes, pairs, slope)


@torch.compiler.disable
def pair_extremum(x: Tensor, pairs: PairIndex, largest: bool) -> tuple[Tensor, Tensor]:
    """Largest (or smallest) entry of every row and column: two (N, C).  Tied entries share the gradient."""
    _check_rows("x", x, pairs.num_pairs, "pairs")
    out = x.new_zeros(pairs.num_nodes, x.shape[1])
    kind = "amax" if largest else "amin"
    return tuple(
        out.scatter_reduce(0, index[:, None].expand_as(x), x, kind, include_self=False)
        for index in (pairs.row, pairs.column)
    )


def _check_rows(name: str, x: Tensor, rows: int, of: str) -> None:
    if x.dim() != 2 or x.shape[0] != rows:
        raise ValueError(f"{name}: expected ({rows}, C), one row for each of the {rows} {of}, got {tuple(x.shape)}")


# -- operators for torch.compile, and their derivatives --------------------------------------------------------------


def _index(node_ptr: Tensor) -> PairIndex:
    return PairIndex(node_ptr.diff().cpu(), node_ptr.device)


def _reduce_oracle(x, weights, node_ptr, upper_ptr, num_nodes):
    return tuple(_plain_reduce(x, _index(node_ptr), weights))


def _expand_oracle(u, v, w, weights, base, node_ptr, upper_ptr, num_upper):
    out = _plain_expand(u, v, w, weights, _index(node_ptr))
    return out if base is None else out.add_(base)


def _mix_oracle(x, even, odd, u, v, w, node_ptr, upper_ptr, slope):
    pairs = _index(node_ptr)
    return F.leaky_relu(_plain_mix(x, even, odd, _plain_expand(u, v, w, None, pairs), pairs), slope)


def _mix_backward_oracle(grad, y, x, even, odd, node_ptr, upper_ptr, num_nodes, slope):
    pairs = _index(node_ptr)
    grad = torch.where(y > 0, grad, grad * slope)
    diagonal, rows, columns = _plain_reduce(grad, pairs, None)
    return *_plain_mix_backward(grad, x, even, odd, pairs), rows, columns, diagonal


def _reduce_setup(ctx, inputs, output):
    x, weights, node_ptr, upper_ptr, num_nodes = inputs
    ctx.num_upper = (x.shape[0] - num_nodes) // 2
    ctx.save_for_backward(weights, node_ptr, upper_ptr)


def _reduce_backward(ctx, grad_diagonal, grad_rows, grad_columns):
    weights, node_ptr, upper_ptr = ctx.saved_tensors
    where = (node_ptr, upper_ptr, ctx.num_upper)
    return torch.ops.puffin.pair_expand(grad_rows, grad_columns, grad_diagonal, weights, None, *where), *[None] * 4


def _expand_setup(ctx, inputs, output):
    ctx.num_nodes = inputs[0].shape[0]
    ctx.save_for_backward(inputs[3], *inputs[5:7])


def _expand_backward(ctx, grad):
    diagonal, rows, columns = torch.ops.puffin.pair_reduce(grad, *ctx.saved_tensors, ctx.num_nodes)
    diagonal, base = diagonal if ctx.needs_input_grad[2] else None, grad if ctx.needs_input_grad[4] else None
    return rows, columns, diagonal, None, base, None, None, None


def _mix_setup(ctx, inputs, output):
    x, even, odd, u, _, _, node_ptr, upper_ptr, ctx.slope = inputs
    ctx.num_nodes = u.shape[0]
    ctx.save_for_backward(output, x, even, odd, node_ptr, upper_ptr)


def _mix_derivative(ctx, grad):
    x, even, odd, rows, columns, diagonal = torch.ops.puffin.pair_mix_backward(
        grad, *ctx.saved_tensors, ctx.num_nodes, ctx.slope
    )
    return x, even, odd, rows, columns, diagonal if ctx.needs_input_grad[5] else None, None, None, None


def _reduce_fake(x, weights, node_ptr, upper_ptr, num_nodes):
    return tuple(x.new_empty(num_nodes, x.shape[1]) for _ in range(3))


def _expand_fake(u, v, w, weights, base, node_ptr, upper_ptr, num_upper):
    return u.new_empty(u.shape[0] + 2 * num_upper, u.shape[1])


def _mix_fake(x, even, odd, u, v, w, node_ptr, upper_ptr, slope):
    return x.new_empty(x.shape[0], even.shape[1])


def _mix_backward_fake(grad, y, x, even, odd, node_ptr, upper_ptr, num_nodes, slope):
    nodes = (grad.new_empty(num_nodes, grad.shape[1]) for _ in range(3))
    return torch.empty_like(x), torch.empty_like(even), torch.empty_like(odd), *nodes


library.define(REDUCE, _reduce_oracle, _reduce_fake)
library.define(EXPAND, _expand_oracle, _expand_fake)
library.define(MIX, _mix_oracle, _mix_fake, compiled=("CPU",))
library.define(MIX_BACKWARD, _mix_backward_oracle, _mix_backward_fake, compiled=("CPU",))
torch.library.register_autograd("puffin::pair_reduce", _reduce_backward, setup_context=_reduce_setup)
torch.library.register_autograd("puffin::pair_expand", _expand_backward, setup_context=_expand_setup)
torch.library.register_autograd("puffin::pair_mix", _mix_derivative, setup_context=_mix_setup)
