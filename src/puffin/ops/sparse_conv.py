"""Sparse convolutions: sums over the occupied voxels near each voxel, found in a table of rows.

A table (T, K) int32 holds for each of T outputs and K offsets the row of an input (S, C), or -1 where there is none.
The transposed table (S, K) exchanges inputs and outputs: transposed[s, k] = t where table[t, k] = s.  With the tables
of `puffin.ops.voxels`, one operator serves all convolutions:

    submanifold convolution       table = neighbours        transposed = neighbours.flip(1)
    stride 2, kernel 2            table = children          transposed = parent_table
    its transpose                 table = parent_table      transposed = children

Only existing neighbours are multiplied.  Source: arXiv 1711.10275, sec. 3.
"""

import torch
from torch import Tensor

from puffin.ops import library

FORWARD = "sparse_conv(Tensor x, Tensor weight, Tensor table, Tensor transposed) -> Tensor"
WEIGHT = "sparse_conv_weight(Tensor x, Tensor grad, Tensor table) -> Tensor"


def sparse_conv(x: Tensor, weight: Tensor, table: Tensor, transposed: Tensor) -> Tensor:
    """Convolve x (S, Cin) with weight (K, Cin, Cout): y (T, Cout)[t] is the sum of x[table[t, k]] @ weight[k] over k.

    table (T, K) and transposed (S, K) int32: see the head of this module; each column of a table holds a row at most
    once.  Sums are float32 for half precision, and y has the dtype of x.  Under autocast to bfloat16 on a CPU, x and y
    are bfloat16.  Differentiable once in x and weight.

    >>> x, weight = torch.tensor([[1.0], [10.0]]), torch.tensor([[[1.0]], [[2.0]]])
    >>> table = torch.tensor([[0, 1], [1, -1]], dtype=torch.int32)
    >>> sparse_conv(x, weight, table, transposed=torch.tensor([[0, -1], [1, 0]], dtype=torch.int32)).flatten()
    tensor([21., 10.])
    """
    _check(x, weight, table, transposed)
    if library.autocast_makes_half_tables(x):
        x = x.bfloat16()
    keeps_dtype = x.dtype in (torch.float32, torch.float64) or (x.dtype == torch.bfloat16 and library.has_cpu_kernel(x))
    supported = x if keeps_dtype else x.float()
    weight = weight.to(_wide_dtype(supported))
    return torch.ops.puffin.sparse_conv(supported, weight, table, transposed).to(x.dtype)


def _check(x: Tensor, weight: Tensor, table: Tensor, transposed: Tensor) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected (S, Cin) floating point, got {tuple(x.shape)} {x.dtype}")
    if weight.dim() != 3 or weight.shape[1] != x.shape[1] or not weight.is_floating_point():
        raise ValueError(
            f"weight: expected (K, {x.shape[1]}, Cout) floating point, got {tuple(weight.shape)} {weight.dtype}"
        )
    if table.dim() != 2 or table.shape[1] != len(weight) or table.dtype != torch.int32:
        raise ValueError(f"table: expected (T, {len(weight)}) int32, got {tuple(table.shape)} {table.dtype}")
    if transposed.shape != (len(x), len(weight)) or transposed.dtype != torch.int32:
        raise ValueError(
            f"transposed: expected {(len(x), len(weight))} int32, got {tuple(transposed.shape)} {transposed.dtype}"
        )
    for name, tensor in (("weight", weight), ("table", table), ("transposed", transposed)):
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected device {x.device} like x, got {tensor.device}; move it")


# -- operators: oracles, shapes, derivatives ---------------------------------------------------------------------------


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _rows_of_offset(table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and the outputs that offset k connects."""
    outputs = (table[:, k] >= 0).nonzero()[:, 0]
    return table[outputs, k], outputs


def _oracle(x, weight, table, transposed):
    y = weight.new_zeros(len(table), weight.shape[2])
    for k, matrix in enumerate(weight):
        inputs, outputs = _rows_of_offset(table, k)
        y.index_add_(0, outputs, x.index_select(0, inputs).to(weight.dtype) @ matrix)
    return y.to(x.dtype)


def _weight_oracle(x, grad, table):
    result = x.new_zeros(table.shape[1], x.shape[1], grad.shape[1], dtype=_wide_dtype(x))
    for k in range(table.shape[1]):
        inputs, outputs = _rows_of_offset(table, k)
        result[k] = (x[inputs].to(result.dtype)).t() @ grad[outputs].to(result.dtype)
    return result


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


@torch.autograd.function.once_differentiable
def _derivative(ctx, grad):
    x, weight, table, transposed = ctx.saved_tensors
    ops, (needs_x, needs_weight, *_) = torch.ops.puffin, ctx.needs_input_grad
    of_x = ops.sparse_conv(grad, weight.transpose(1, 2), transposed, table) if needs_x else None
    return of_x, ops.sparse_conv_weight(x, grad, table) if needs_weight else None, None, None


def _fake(x, weight, table, transposed):
    return x.new_empty(table.shape[0], weight.shape[2])


def _weight_fake(x, grad, table):
    return x.new_empty(table.shape[1], x.shape[1], grad.shape[1], dtype=_wide_dtype(x))


library.define(FORWARD, _oracle, _fake)
library.define(WEIGHT, _weight_oracle, _weight_fake)
torch.library.register_autograd("puffin::sparse_conv", _derivative, setup_context=_setup)
