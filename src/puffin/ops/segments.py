"""Sums and extrema of segments, such as the particles of an event or the points of a group.

x (M, C) holds S segments one after another; ptr (S + 1,) int64 on the device of x holds the first row of each, from 0
to M.  A segment may be empty: its sum and its extremum are 0.
"""

import torch
from torch import Tensor

from puffin.ops import library

SUM = "segment_sum(Tensor x, Tensor ptr) -> Tensor"
EXPAND = "segment_expand(Tensor x, Tensor ptr, int rows) -> Tensor"
EXTREMUM = "segment_extremum(Tensor x, Tensor ptr, bool largest) -> Tensor"
EXTREMUM_BACKWARD = "segment_extremum_backward(Tensor grad, Tensor extremum, Tensor x, Tensor ptr) -> Tensor"


def segment_sum(x: Tensor, ptr: Tensor) -> Tensor:
    """Sum the rows of each segment, in their order: x (M, C) floating point -> (S, C).

    >>> segment_sum(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2, 2, 3])).flatten()
    tensor([3., 0., 3.])
    """
    _check(x, ptr)
    return torch.ops.puffin.segment_sum(*_supported(x), ptr).to(x.dtype)


def segment_expand(x: Tensor, ptr: Tensor, rows: int) -> Tensor:
    """Repeat each segment's row of x (S, C) for each row of the segment: (rows, C).

    This is the gradient of `segment_sum`, and the other way round.

    >>> segment_expand(torch.tensor([[7.0], [8.0]]), torch.tensor([0, 2, 3]), rows=3).flatten()
    tensor([7., 7., 8.])
    """
    check_ptr(x, ptr)
    if x.dim() != 2 or x.shape[0] != len(ptr) - 1:
        raise ValueError(f"x: expected ({len(ptr) - 1}, C), one row for each segment, got {tuple(x.shape)}")
    return torch.ops.puffin.segment_expand(*_supported(x), ptr, rows).to(x.dtype)


def segment_extremum(x: Tensor, ptr: Tensor, largest: bool) -> Tensor:
    """Find the largest (or smallest) entry of each segment and channel: x (M, C) -> (S, C).

    Tied entries share the gradient equally.

    >>> segment_extremum(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2, 3]), largest=True).flatten()
    tensor([2., 3.])
    """
    _check(x, ptr)
    return torch.ops.puffin.segment_extremum(*_supported(x), ptr, largest).to(x.dtype)


def _check(x: Tensor, ptr: Tensor) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected (M, C) floating point, got {tuple(x.shape)} {x.dtype}")
    check_ptr(x, ptr)


def check_ptr(x: Tensor, ptr: Tensor) -> None:
    """Raise ValueError unless ptr is (S + 1,) int64 on the device of x."""
    if ptr.dim() != 1 or len(ptr) == 0 or ptr.dtype != torch.int64 or ptr.device != x.device:
        raise ValueError(
            f"ptr: expected (S + 1,) int64 on {x.device}, got {tuple(ptr.shape)} {ptr.dtype} on {ptr.device}"
        )


def _supported(x: Tensor) -> tuple[Tensor]:
    """Convert half precision to float32, in which it is added up."""
    return (x if x.dtype in (torch.float32, torch.float64) else x.float(),)


# -- operators: oracles, shapes, derivatives -------------------------------------------------------------------------


def segment_of_row(ptr: Tensor, rows: int) -> Tensor:
    """Return the segment that each row belongs to: (rows,) int64."""
    return torch.repeat_interleave(ptr.diff(), output_size=rows)


def _sum_oracle(x, ptr):
    return x.new_zeros(len(ptr) - 1, x.shape[1]).index_add(0, segment_of_row(ptr, len(x)), x)


def _expand_oracle(x, ptr, rows):
    return x.index_select(0, segment_of_row(ptr, rows))


def _extremum_oracle(x, ptr, largest):
    index = segment_of_row(ptr, len(x))[:, None].expand_as(x)
    kind = "amax" if largest else "amin"
    return x.new_zeros(len(ptr) - 1, x.shape[1]).scatter_reduce(0, index, x, kind, include_self=False)


def _extremum_backward_oracle(grad, extremum, x, ptr):
    best = (x == _expand_oracle(extremum, ptr, len(x))).to(x.dtype)
    return best * _expand_oracle(grad / _sum_oracle(best, ptr).clamp_min(1), ptr, len(x))


def _sum_setup(ctx, inputs, output):
    ctx.rows = len(inputs[0])
    ctx.save_for_backward(inputs[1])


def _sum_derivative(ctx, grad):
    return torch.ops.puffin.segment_expand(grad, *ctx.saved_tensors, ctx.rows), None


def _expand_setup(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _expand_derivative(ctx, grad):
    return torch.ops.puffin.segment_sum(grad, *ctx.saved_tensors), None, None


def _extremum_setup(ctx, inputs, output):
    ctx.save_for_backward(output, *inputs[:2])


def _extremum_derivative(ctx, grad):
    return torch.ops.puffin.segment_extremum_backward(grad, *ctx.saved_tensors), None, None


def _fake(x, ptr, *_):
    return x.new_empty(ptr.shape[0] - 1, x.shape[1])


library.define(SUM, _sum_oracle, _fake)
library.define(EXPAND, _expand_oracle, lambda x, ptr, rows: x.new_empty(rows, x.shape[1]))
library.define(EXTREMUM, _extremum_oracle, _fake)
library.define(EXTREMUM_BACKWARD, _extremum_backward_oracle, lambda grad, extremum, x, ptr: x.new_empty(x.shape))
torch.library.register_autograd("puffin::segment_sum", _sum_derivative, setup_context=_sum_setup)
torch.library.register_autograd("puffin::segment_expand", _expand_derivative, setup_context=_expand_setup)
torch.library.register_autograd("puffin::segment_extremum", _extremum_derivative, setup_context=_extremum_setup)
