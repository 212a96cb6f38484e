"""The pair operations in plain PyTorch, forward and backward: for devices and types without compiled kernels.

The operators of pair_operators.py and the differentiable functions of pairs.py both use these.  The layout of the pairs
is described in pairs.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.ops.pair_index import PairIndex


def _sum_bags(table: Tensor, bags: tuple[Tensor, Tensor], weights: Tensor | None = None) -> Tensor:
    # embedding_bag reads each row once and keeps its sums in registers: the fastest gather-and-sum in plain PyTorch
    return F.embedding_bag(bags[0], table, bags[1], mode="sum", per_sample_weights=weights, include_last_offset=True)


def reduce_pairs(x: Tensor, weights: Tensor | None, pairs: PairIndex) -> tuple[Tensor, Tensor, Tensor]:
    """Return the diagonal, the row sums and the column sums of x (P, C), each (N, C); weights (N,) or None.

    Its gradient is `expand_pairs`.
    """
    if pairs.num_pairs == 0:
        return tuple(x.new_zeros(pairs.num_nodes, x.shape[1]) for _ in range(3))
    if weights is not None:
        positions = pairs.rows_then_columns[0]
        other = torch.cat([pairs.column[positions[: pairs.num_pairs]], pairs.row[positions[pairs.num_pairs :]]])
        weights = weights[other].to(x.dtype)
    sums = _sum_bags(x.contiguous(), pairs.rows_then_columns, weights)
    return pairs.blocks(x)[0].clone(), sums[: pairs.num_nodes].clone(), sums[pairs.num_nodes :].clone()


def expand_pairs(
    u: Tensor, v: Tensor, w: Tensor | None, weights: Tensor | None, base: Tensor | None, pairs: PairIndex
) -> Tensor:
    """Return base_ij + u_i weights_j + v_j weights_i + delta_ij w_i (P, C); u, v, w (N, C), weights (N,), base (P, C).

    w, base: None means 0; weights: None means 1.  Its gradient is `reduce_pairs`.
    """
    if pairs.num_pairs == 0:
        return u.new_zeros(0, u.shape[1])
    if weights is None:
        out = _sum_bags(torch.cat([u, v]), pairs.row_and_column)
    else:
        out = u[pairs.row] * weights[pairs.column, None] + v[pairs.column] * weights[pairs.row, None]
    if w is not None:
        pairs.blocks(out)[0].add_(w)
    return out if base is None else out.add_(base)


def add_mixed_(out: Tensor, x: Tensor, even: Tensor, odd: Tensor, slope: float, pairs: PairIndex) -> Tensor:
    """Add (x_ij + x_ji) E + (x_ij - x_ji) O to out (P, S) in place, then apply the leaky ReLU.

    x (P, C); E, O (C, S); slope 1 leaves the activation out.
    """
    diagonal, upper, lower = pairs.blocks(x)
    out_diagonal, out_upper, out_lower = pairs.blocks(out)
    out_diagonal.addmm_(diagonal, even, alpha=2)
    sums, differences = (upper + lower) @ even, (upper - lower) @ odd
    out_lower.add_(sums).sub_(differences)
    out_upper.add_(sums.add_(differences))
    return out if slope == 1 else F.leaky_relu_(out, slope)


def gradient_before_activation(grad: Tensor, out: Tensor | None, slope: float) -> Tensor:
    """Take the gradient of `add_mixed_` back through its leaky ReLU; out: its result, None for slope 1."""
    return grad if slope == 1 else torch.ops.aten.leaky_relu_backward(grad, out, slope, True)


def mixed_gradients(
    grad: Tensor, x: Tensor, even: Tensor, odd: Tensor, pairs: PairIndex, needs_x: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of x (None unless needs_x), E and O from that before the activation."""
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
