"""Sums of piecewise linear functions, one of each feature of a point: they learn thresholds fast."""

import torch
from torch import Tensor

from puffin.ops import library

FORWARD = "piecewise_linear(Tensor x, Tensor values, float low, float high) -> Tensor"
BACKWARD = "piecewise_linear_backward(Tensor grad, Tensor x, Tensor values, float low, float high) -> (Tensor, Tensor)"


def piecewise_linear(x: Tensor, values: Tensor, low: float, high: float) -> Tensor:
    """Return y (P, C), where y[p] is the sum over features f of values[f] (K, C) interpolated linearly at x[p, f].

    x (P, F); values (F, K, C) at K > 1 knots, evenly spaced from low to high; outside of them the outermost values
    hold.  Sums are float32 for half precision, and y has the dtype of x.  Differentiable once; the slope at a knot is
    that to its right.
    Source: piecewise linear encoding followed by a linear layer, Gorishniy et al., arXiv 2203.05556, sec. 3.2.

    >>> values = torch.tensor([[[0.0], [10.0], [30.0]]])  # of one feature, at the knots 0, 1 and 2
    >>> piecewise_linear(torch.tensor([[0.5], [1.5], [7.0]]), values, 0.0, 2.0).flatten()
    tensor([ 5., 20., 30.])
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected (P, F) floating point, got {tuple(x.shape)} {x.dtype}")
    if values.dim() != 3 or len(values) != x.shape[1] or values.shape[1] < 2 or not values.is_floating_point():
        expected = f"({x.shape[1]}, K > 1, C) floating point"
        raise ValueError(f"values: expected {expected}, got {tuple(values.shape)} {values.dtype}")
    if values.device != x.device:
        raise ValueError(f"values: expected device {x.device} like x, got {values.device}; move it")
    if not low < high:
        raise ValueError(f"high: expected more than low = {low}, got {high}")
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.ops.puffin.piecewise_linear(x.to(wide), values.to(wide), low, high).to(x.dtype)


# -- operators: oracles, shapes, derivatives ---------------------------------------------------------------------------


def _steps(x: Tensor, values: Tensor, low: float, high: float) -> Tensor:
    """Return the position of each x in steps between knots, (P, F)."""
    return (x - low) * ((values.shape[1] - 1) / (high - low))


def _encode(steps: Tensor, intervals: int) -> Tensor:
    """Return how far each interval lies below the position, from 0 to 1: (P, F, intervals)."""
    return (steps[:, :, None] - torch.arange(intervals, device=steps.device, dtype=steps.dtype)).clamp(0, 1)


def _oracle(x, values, low, high):
    encoded = _encode(_steps(x, values, low, high), values.shape[1] - 1)
    return torch.einsum("pfk,fkc->pc", encoded, values.diff(dim=1)) + values[:, 0].sum(0)


def _backward_oracle(grad, x, values, low, high):
    steps, last = _steps(x, values, low, high), values.shape[1] - 1
    of_differences = torch.einsum("pfk,pc->fkc", _encode(steps, last), grad)
    of_values = torch.zeros_like(values)
    of_values[:, 0] = grad.sum(0)
    of_values[:, 1:] += of_differences
    of_values[:, :-1] -= of_differences
    slopes = torch.einsum("pc,fkc->pfk", grad, values.diff(dim=1))
    slope = slopes.gather(2, steps.long().clamp(0, last - 1)[:, :, None])[:, :, 0] * (last / (high - low))
    return torch.where((steps >= 0) & (steps < last), slope, 0), of_values


def _setup(ctx, inputs, output):
    x, values, ctx.low, ctx.high = inputs
    ctx.save_for_backward(x, values)


@torch.autograd.function.once_differentiable
def _derivative(ctx, grad):
    of_x, of_values = torch.ops.puffin.piecewise_linear_backward(grad, *ctx.saved_tensors, ctx.low, ctx.high)
    return of_x, of_values, None, None


def _fake(x, values, low, high):
    return x.new_empty(len(x), values.shape[2])


def _backward_fake(grad, x, values, low, high):
    return x.new_empty(x.shape), values.new_empty(values.shape)


library.define(FORWARD, _oracle, _fake)
library.define(BACKWARD, _backward_oracle, _backward_fake)
torch.library.register_autograd("puffin::piecewise_linear", _derivative, setup_context=_setup)
