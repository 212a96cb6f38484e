"""A message on pairs at once: linear layer, leaky ReLU, batch normalisation.

Forward reads x and writes y; the statistics come from the tiles while they are in the cache.  Backward goes through the
normalisation, the activation and both products tile by tile, so that only the gradient of x is written.
Source: arXiv 2307.16506, sec. 3 (messages); batch normalisation: arXiv 1502.03167.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import library

FORWARD = "message(Tensor x, Tensor weight, Tensor bias, float slope) -> (Tensor, Tensor, Tensor)"
BACKWARD = (
    "message_backward(Tensor grad, Tensor y, Tensor x, Tensor weight, Tensor mean, Tensor inverse, Tensor gain, "
    "float slope) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


class Normalised(NamedTuple):
    """values (M, S); mean and biased variance (S,) of what was normalised, without gradient."""

    values: Tensor
    mean: Tensor
    variance: Tensor


class _MessageNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, gain, shift, slope, eps):
        y, mean, variance = torch.ops.puffin.message(x, weight, bias, slope)
        inverse = torch.rsqrt(variance + eps)
        ctx.slope = slope
        ctx.save_for_backward(y, x, weight, mean, inverse, gain)
        ctx.mark_non_differentiable(mean, variance)
        scale = inverse * gain
        return torch.addcmul(shift - mean * scale, y, scale), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _, __):
        y, x, weight, mean, inverse, gain = ctx.saved_tensors
        x, weight, bias, gain, shift = torch.ops.puffin.message_backward(grad, y, x, weight, mean, inverse, gain, ctx.slope)
        return x, weight, bias, gain, shift, None, None


def compiled(x: Tensor) -> bool:
    """Whether `message_norm` has a kernel for this input; elsewhere the separate layers are as good."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and library.loaded()
        and not torch.is_autocast_enabled("cpu")
    )


@torch.compiler.disable
def message_norm(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, slope: float, eps: float
) -> Normalised:
    """Batch norm (statistics of these rows) of leaky(x W^T + b).

    x (M, C); weight (S, C), bias (S,); gain, shift (S,) of the norm; slope 0..1 of the leaky ReLU."""
    if x.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x: expected (rows, {weight.shape[1]}), got {tuple(x.shape)}")
    return Normalised(*_MessageNorm.apply(x, weight, bias, gain, shift, slope, eps))


@torch.compiler.disable
def message_affine(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    """scale leaky(x W^T + b) + shift, (M, S): a message in eval mode.  Not differentiable."""
    return torch.addcmul(shift, torch.ops.puffin.message(x, weight, bias, slope)[0], scale)


def _oracle(x, weight, bias, slope):
    y = F.leaky_relu(F.linear(x, weight, bias), slope)
    if len(x) == 0:
        return y, torch.zeros_like(bias), torch.zeros_like(bias)
    variance, mean = torch.var_mean(y, 0, correction=0)
    return y, mean, variance


def _backward_oracle(grad, y, x, weight, mean, inverse, gain, slope):
    normalised = (y - mean) * inverse
    shift, scale = grad.sum(0), (grad * normalised).sum(0)
    rows = max(len(x), 1)
    before = gain * inverse * (grad - shift / rows - normalised * (scale / rows))
    before = torch.where(y > 0, before, before * slope)
    return before @ weight, before.t() @ x, before.sum(0), scale, shift


def _fake(x, weight, bias, slope):
    return x.new_empty(x.shape[0], weight.shape[0]), torch.empty_like(bias), torch.empty_like(bias)


def _backward_fake(grad, y, x, weight, mean, inverse, gain, slope):
    return torch.empty_like(x), torch.empty_like(weight), *(torch.empty_like(mean) for _ in range(3))


library.define(FORWARD, _oracle, _fake, compiled=("CPU",))
library.define(BACKWARD, _backward_oracle, _backward_fake, compiled=("CPU",))
