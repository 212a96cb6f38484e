"""A message on pairs in one pass: linear layer, leaky ReLU, and the statistics of the result for batch normalisation.

The forward pass reads x and writes y; it computes the statistics from tiles of y that are still in the cache.  The
backward pass takes the gradients of all three through activation and products tile by tile, and writes only that of x.
The tables x, y and their gradients may be bfloat16, which halves the memory traffic: only a CPU has kernels for that.
Source: arXiv 2307.16506, sec. 3 (messages); batch normalisation: arXiv 1502.03167.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.ops import library

FORWARD = "message(Tensor x, Tensor weight, Tensor bias, float slope) -> (Tensor, Tensor, Tensor)"
BACKWARD = (
    "message_backward(Tensor grad, Tensor y, Tensor x, Tensor weight, Tensor mean, Tensor offset, Tensor factor, "
    "float slope) -> (Tensor, Tensor, Tensor)"
)


class Message(NamedTuple):
    """values (M, S), and their mean and biased variance (S,) over the rows; both are 0 without rows."""

    values: Tensor
    mean: Tensor
    variance: Tensor


@torch.compiler.disable
def message(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Message:
    """Return leaky(x W^T + b) and its statistics; all three are differentiable once.

    x (M, C); weight (S, C), bias (S,); slope 0..1 of the leaky ReLU.  Autocast is ignored.  If x is bfloat16, so are
    the values and the gradient of x; statistics (of the rounded values), sums, and gradients of weights are float32.
    """
    if x.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x: expected (rows, {weight.shape[1]}), got {tuple(x.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        return Message(*_Message.apply(x, *wide_parameters(x, weight, bias), slope))


def wide_parameters(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias in the dtype that the kernels for x expect."""
    if x.dtype == torch.bfloat16 and library.has_kernel(x):
        return weight.float(), bias.float()
    return weight, bias


class _Message(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, slope):
        y, mean, variance = (torch.ops.puffin.message if library.has_kernel(x) else _oracle)(x, weight, bias, slope)
        ctx.slope = slope
        ctx.save_for_backward(y, x, weight, mean)
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_mean, grad_variance):
        y, x, weight, mean = ctx.saved_tensors
        rows = max(len(x), 1)
        backward = torch.ops.puffin.message_backward if library.has_kernel(x) else _backward_oracle
        return *backward(grad, y, x, weight, mean, grad_mean / rows, grad_variance * (2 / rows), ctx.slope), None


def _values(x, weight, bias, slope):
    return F.leaky_relu(F.linear(x.to(weight.dtype), weight, bias), slope).to(x.dtype)


def _oracle(x, weight, bias, slope):
    y = _values(x, weight, bias, slope)
    if len(x) == 0:
        return y, torch.zeros_like(bias), torch.zeros_like(bias)
    variance, mean = torch.var_mean(y.to(bias.dtype), 0, correction=0)
    return y, mean, variance


def _backward_oracle(grad, y, x, weight, mean, offset, factor, slope):
    grad, y, wide = (t.to(weight.dtype) for t in (grad, y, x))
    before = torch.addcmul(offset - mean * factor, y, factor).add_(grad)
    before = torch.ops.aten.leaky_relu_backward(before, y, slope, True)
    return (before @ weight).to(x.dtype), before.t() @ wide, before.sum(0)


def _fake(x, weight, bias, slope):
    return x.new_empty(x.shape[0], weight.shape[0]), *(bias.new_empty(bias.shape) for _ in range(2))


def _backward_fake(grad, y, x, weight, mean, offset, factor, slope):
    return tuple(t.new_empty(t.shape) for t in (x, weight, mean))


library.define(FORWARD, _oracle, _fake)
library.define(BACKWARD, _backward_oracle, _backward_fake)
