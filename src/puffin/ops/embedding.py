"""The embedding of symmetric pair inputs: a linear layer, the signed power, both mirrored blocks, and label channels.

On a CPU with kernels one pass writes the table (P, C + L), and its backward pass computes everything again from the
inputs, so that no feature of pairs is stored.  Elsewhere the same is composed of other operations.  The layout of the
pairs is described in pairs.py.  Source: docs/MATHEMATICS_PELICAN.md, section 2.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.ops import library
from puffin.ops.pair_index import PairIndex
from puffin.ops.pair_operators import dtype_of_sums
from puffin.ops.pairs import pair_expand
from puffin.ops.signed_power import signed_power

FORWARD = (
    "pair_embed(Tensor x, Tensor weight, Tensor bias, Tensor exponent, Tensor u, Tensor v, Tensor w, Tensor node_ptr, "
    "Tensor upper_ptr, float offset, bool signed, float slope, bool half) -> Tensor"
)
BACKWARD = (
    "pair_embed_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor exponent, Tensor u, Tensor v, "
    "Tensor w, Tensor node_ptr, Tensor upper_ptr, float offset, bool signed, float slope, bool needs_x)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


class Power(NamedTuple):
    """The map sign(y) ((offset + |y|)^a - 1) / a per channel: exponent a (C,), not 0; signed=False: without the sign.

    offset: a normal number > 0."""

    exponent: Tensor
    offset: float
    signed: bool


class Labels(NamedTuple):
    """Label channels of pairs: activation(u_i + v_j + delta_ij w_i) with u, v, w (N, L)."""

    u: Tensor
    v: Tensor
    w: Tensor
    activation: nn.Module

    @property
    def slope(self) -> float | None:
        """See `slope_of`."""
        return slope_of(self.activation)


def slope_of(activation: nn.Module) -> float | None:
    """Return the slope of a leaky ReLU, 1 for no activation; None for one that the kernels do not have."""
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    return 1.0 if isinstance(activation, nn.Identity) else None


@torch.compiler.disable
def pair_embed(
    x: Tensor, weight: Tensor, bias: Tensor, power: Power, labels: Labels | None, pairs: PairIndex
) -> Tensor:
    """Return the signed power of x W^T + b at pairs (i, j) and (j, i), and the labels beside it: (P, C + L).

    x (N + U, K), symmetric inputs of the diagonal pairs and of those with i < j; weight (C, K), bias (C,); all tensors
    have the dtype of x.  Differentiable once.  Autocast is ignored, but where it stores pair features in bfloat16
    (`library.autocast_makes_half_tables`), the kernel rounds the table to bfloat16.  Kernels know the leaky ReLU only:
    with another activation the table is composed.

    >>> pairs = PairIndex(torch.tensor([2]), torch.device("cpu"))
    >>> x, one = torch.tensor([[0.0], [3.0], [-3.0]]), torch.ones(1)  # pairs (0, 0), (1, 1) and (0, 1)
    >>> pair_embed(x, one[None], 0 * one, Power(0.5 * one, 1.0, True), None, pairs).flatten()
    tensor([ 0.,  2., -2., -2.])
    """
    rows = pairs.num_nodes + pairs.num_upper
    if x.dim() != 2 or x.shape != (rows, weight.shape[1]):
        raise ValueError(f"x: expected ({rows}, {weight.shape[1]}), got {tuple(x.shape)}")
    if x.device.type != pairs.device.type:
        raise ValueError(f"x: expected device {pairs.device} like the pairs, got {x.device}; move it")
    half = library.autocast_makes_half_tables(x)
    if labels is None:
        none = x.new_empty(pairs.num_nodes, 0)
        labels = Labels(none, none, none, nn.Identity())
    with torch.autocast(x.device.type, enabled=False):
        if library.has_cpu_kernel(x) and x.dtype in (torch.float32, torch.float64) and labels.slope is not None:
            numbers = (power.offset, power.signed, labels.slope)
            return _PairEmbed.apply(x, weight, bias, power.exponent, *labels[:3], pairs, *numbers, half)
        return _composed(x, weight, bias, power, labels, pairs)


class _PairEmbed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, exponent, u, v, w, pairs, offset, signed, slope, half):
        tensors = (x, weight, bias, exponent, u, v, w, pairs.node_ptr, pairs.upper_ptr)
        ctx.numbers = (offset, signed, slope)
        ctx.save_for_backward(*tensors)
        return torch.ops.puffin.pair_embed(*tensors, *ctx.numbers, half)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        needs_x = ctx.needs_input_grad[0]
        grad_x, *others = torch.ops.puffin.pair_embed_backward(grad, *ctx.saved_tensors, *ctx.numbers, needs_x)
        return grad_x if needs_x else None, *others, *[None] * 5


def _composed(x, weight, bias, power, labels, pairs):
    embedded = pairs.mirror(signed_power(F.linear(x, weight, bias), *power))
    if labels.u.shape[1] == 0:
        return embedded
    return torch.cat([embedded, labels.activation(pair_expand(*labels[:3], pairs))], -1)


def _oracle(x, weight, bias, exponent, u, v, w, node_ptr, upper_ptr, offset, signed, slope, half):
    pairs = PairIndex(node_ptr.diff().cpu(), node_ptr.device)
    labels = Labels(u, v, w, nn.LeakyReLU(slope))
    out = _composed(x, weight, bias, Power(exponent, offset, signed), labels, pairs)
    return out.bfloat16() if half else out


def _backward_oracle(grad, x, weight, bias, exponent, u, v, w, node_ptr, upper_ptr, offset, signed, slope, needs_x):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias, exponent, u, v, w)]
    arguments = [*leaves, node_ptr, upper_ptr, offset, signed, slope, False]
    with torch.enable_grad():
        out = _oracle(*arguments)
    grad_x, *others = torch.autograd.grad(
        out, leaves, grad.to(dtype_of_sums(grad)), allow_unused=True, materialize_grads=True
    )
    return grad_x if needs_x else grad_x[:0], *others


def _fake(x, weight, bias, exponent, u, v, w, node_ptr, upper_ptr, offset, signed, slope, half):
    rows, width = 2 * x.shape[0] - u.shape[0], weight.shape[0] + u.shape[1]
    return x.new_empty(rows, width, dtype=torch.bfloat16 if half else x.dtype)


def _backward_fake(grad, x, *arguments):
    *others, needs_x = (*arguments[:6], arguments[-1])
    return x.new_empty(x.shape[0] if needs_x else 0, x.shape[1]), *(t.new_empty(t.shape) for t in others)


library.define(FORWARD, _oracle, _fake, cpu_only=True)
library.define(BACKWARD, _backward_oracle, _backward_fake, cpu_only=True)
