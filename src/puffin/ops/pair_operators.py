"""The operators `torch.ops.puffin.pair_*`, and the choice between compiled kernels and plain PyTorch.

`reduce`, `expand`, `mix` and `mix_backward` run the compiled kernel where there is one for the device and type, else
plain_pairs.py.  None of them is differentiable: pairs.py is.  The operators are for torch.compile and other callers
that have the pointers of the events only; their derivatives are these same operators.

Tables of pairs (P, C) may be bfloat16.  The operators then take and return everything else, features of nodes and
weights, in float32, and so do the kernels, which only a CPU has.  Without a kernel, `reduce`, `expand`, `mix` and
`mix_backward` compute in the one dtype of their arguments.
"""

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.pair_index import PairIndex
from puffin.ops.plain_pairs import (
    add_mixed_,
    expand_pairs,
    gradient_before_activation,
    mixed_gradients,
    reduce_pairs,
)

REDUCE = (
    "pair_reduce(Tensor x, Tensor? weights, Tensor node_ptr, Tensor upper_ptr, int num_nodes)"
    " -> (Tensor, Tensor, Tensor)"
)
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


def dtype_of_sums(table: Tensor) -> torch.dtype:
    """Return the dtype of everything that is not a table, for an operator on this table of pairs."""
    return torch.float32 if table.dtype == torch.bfloat16 else table.dtype


def reduce(x: Tensor, weights: Tensor | None, pairs: PairIndex) -> tuple[Tensor, Tensor, Tensor]:
    """Return the diagonal, the row sums and the column sums: see `reduce_pairs`."""
    if library.has_kernel(x):
        weights = None if weights is None else weights.to(dtype_of_sums(x))
        return torch.ops.puffin.pair_reduce(x, weights, pairs.node_ptr, pairs.upper_ptr, pairs.num_nodes)
    return reduce_pairs(x, weights, pairs)


def expand(
    u: Tensor, v: Tensor, w: Tensor | None, weights: Tensor | None, base: Tensor | None, pairs: PairIndex
) -> Tensor:
    """Return base_ij + u_i weights_j + v_j weights_i + delta_ij w_i: see `expand_pairs`."""
    if library.has_kernel(u if base is None else base) and u.dtype != torch.bfloat16:
        return torch.ops.puffin.pair_expand(u, v, w, weights, base, pairs.node_ptr, pairs.upper_ptr, pairs.num_upper)
    return expand_pairs(u, v, w, weights, base, pairs)


def mix(
    x: Tensor, even: Tensor, odd: Tensor, u: Tensor, v: Tensor, w: Tensor | None, slope: float, pairs: PairIndex
) -> Tensor:
    """Return leaky((x_ij + x_ji) E + (x_ij - x_ji) O + u_i + v_j + delta_ij w_i) (P, S)."""
    if library.has_kernel(x):
        return torch.ops.puffin.pair_mix(x, even, odd, u, v, w, pairs.node_ptr, pairs.upper_ptr, slope)
    return _plain_mix(x, even, odd, u, v, w, slope, pairs)


def mix_backward(
    grad: Tensor,
    out: Tensor,
    x: Tensor,
    even: Tensor,
    odd: Tensor,
    slope: float,
    pairs: PairIndex,
    needs_x: bool = True,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, E, O, u, v and w of `mix`; that of x may be None unless needs_x.

    out: the result of `mix`, which is not read for slope 1 (any tensor of its shape then does).
    """
    if library.has_kernel(x):
        where = (pairs.node_ptr, pairs.upper_ptr, pairs.num_nodes)
        return torch.ops.puffin.pair_mix_backward(grad, out, x, even, odd, *where, slope)
    return _plain_mix_backward(grad, out, x, even, odd, slope, pairs, needs_x)


def _plain_mix(x, even, odd, u, v, w, slope, pairs):
    return add_mixed_(expand(u, v, w, None, None, pairs), x, even, odd, slope, pairs)


def _plain_mix_backward(grad, out, x, even, odd, slope, pairs, needs_x=True):
    grad = gradient_before_activation(grad, out, slope)
    diagonal, rows, columns = reduce(grad, None, pairs)
    return *mixed_gradients(grad, x, even, odd, pairs, needs_x), rows, columns, diagonal


# -- oracles: the same in the arguments of the operators --------------------------------------------------------------


def _index(node_ptr: Tensor) -> PairIndex:
    return PairIndex(node_ptr.diff().cpu(), node_ptr.device)


def _wide(table: Tensor) -> Tensor:
    return table.to(dtype_of_sums(table))


def _reduce_oracle(x, weights, node_ptr, upper_ptr, num_nodes):
    return reduce_pairs(_wide(x), weights, _index(node_ptr))


def _expand_oracle(u, v, w, weights, base, node_ptr, upper_ptr, num_upper):
    if base is None:
        return expand_pairs(u, v, w, weights, None, _index(node_ptr))
    return expand_pairs(u, v, w, weights, _wide(base), _index(node_ptr)).to(base.dtype)


def _mix_oracle(x, even, odd, u, v, w, node_ptr, upper_ptr, slope):
    return _plain_mix(_wide(x), even, odd, u, v, w, slope, _index(node_ptr)).to(x.dtype)


def _mix_backward_oracle(grad, y, x, even, odd, node_ptr, upper_ptr, num_nodes, slope):
    index = _index(node_ptr)
    grad_x, *others = _plain_mix_backward(_wide(grad), _wide(y), _wide(x), even, odd, slope, index)
    return grad_x.to(x.dtype), *others


# -- derivatives of the operators -------------------------------------------------------------------------------------


def _reduce_setup(ctx, inputs, output):
    x, weights, node_ptr, upper_ptr, num_nodes = inputs
    ctx.num_upper, ctx.dtype = (x.shape[0] - num_nodes) // 2, x.dtype
    ctx.save_for_backward(weights, node_ptr, upper_ptr)


def _reduce_derivative(ctx, grad_diagonal, grad_rows, grad_columns):
    weights, node_ptr, upper_ptr = ctx.saved_tensors
    where = (node_ptr, upper_ptr, ctx.num_upper)
    grad = torch.ops.puffin.pair_expand(grad_rows, grad_columns, grad_diagonal, weights, None, *where)
    return grad.to(ctx.dtype), *[None] * 4


def _expand_setup(ctx, inputs, output):
    ctx.num_nodes = inputs[0].shape[0]
    ctx.save_for_backward(inputs[3], *inputs[5:7])


def _expand_derivative(ctx, grad):
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


# -- shapes of the results --------------------------------------------------------------------------------------------


def _reduce_fake(x, weights, node_ptr, upper_ptr, num_nodes):
    return tuple(x.new_empty(num_nodes, x.shape[1], dtype=dtype_of_sums(x)) for _ in range(3))


def _expand_fake(u, v, w, weights, base, node_ptr, upper_ptr, num_upper):
    return (u if base is None else base).new_empty(u.shape[0] + 2 * num_upper, u.shape[1])


def _mix_fake(x, even, odd, u, v, w, node_ptr, upper_ptr, slope):
    return x.new_empty(x.shape[0], even.shape[1])


def _mix_backward_fake(grad, y, x, even, odd, node_ptr, upper_ptr, num_nodes, slope):
    nodes = (grad.new_empty(num_nodes, grad.shape[1], dtype=dtype_of_sums(x)) for _ in range(3))
    return *(t.new_empty(t.shape) for t in (x, even, odd)), *nodes


library.define(REDUCE, _reduce_oracle, _reduce_fake)
library.define(EXPAND, _expand_oracle, _expand_fake)
library.define(MIX, _mix_oracle, _mix_fake)
library.define(MIX_BACKWARD, _mix_backward_oracle, _mix_backward_fake)
torch.library.register_autograd("puffin::pair_reduce", _reduce_derivative, setup_context=_reduce_setup)
torch.library.register_autograd("puffin::pair_expand", _expand_derivative, setup_context=_expand_setup)
torch.library.register_autograd("puffin::pair_mix", _mix_derivative, setup_context=_mix_setup)
