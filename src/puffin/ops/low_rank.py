"""Factorised coefficients of an equivariant layer."""

import torch
from torch import Tensor

from puffin.ops import library

FORWARD = "low_rank(Tensor in_maps, Tensor out_maps, Tensor in_out0, Tensor in_out1) -> Tensor"
BACKWARD = (
    "low_rank_backward(Tensor grad, Tensor in_maps, Tensor out_maps, Tensor in_out0, Tensor in_out1)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.compiler.disable
def low_rank(in_maps: Tensor, out_maps: Tensor, in_out0: Tensor, in_out1: Tensor) -> Tensor:
    """Return the coefficients (maps, C, S): in_maps[c, k] in_out0[c, s] + out_maps[s, k] in_out1[c, s].

    in_maps (C, maps), out_maps (S, maps), in_out0 and in_out1 (C, S).  With a kernel differentiable once.
    Source: docs/MATHEMATICS_PELICAN.md, section 3.

    >>> one, two = torch.ones(1, 1), torch.full((1, 1), 2.0)
    >>> low_rank(one, two, two, two)
    tensor([[[6.]]])
    """
    factors = in_maps, out_maps, in_out0, in_out1
    return _LowRank.apply(*factors) if library.has_cpu_kernel(in_maps) else _oracle(*factors)


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *factors):
        ctx.save_for_backward(*factors)
        return torch.ops.puffin.low_rank(*factors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return torch.ops.puffin.low_rank_backward(grad, *ctx.saved_tensors)


def _oracle(in_maps, out_maps, in_out0, in_out1):
    return in_maps.t()[:, :, None] * in_out0 + out_maps.t()[:, None, :] * in_out1


def _backward_oracle(grad, in_maps, out_maps, in_out0, in_out1):
    return (
        torch.einsum("kcs,cs->ck", grad, in_out0),
        torch.einsum("kcs,cs->sk", grad, in_out1),
        torch.einsum("kcs,ck->cs", grad, in_maps),
        torch.einsum("kcs,sk->cs", grad, out_maps),
    )


def _fake(in_maps, out_maps, in_out0, in_out1):
    return in_maps.new_empty(in_maps.shape[1], *in_out0.shape)


def _backward_fake(grad, *factors):
    return tuple(x.new_empty(x.shape) for x in factors)


library.define(FORWARD, _oracle, _fake, cpu_only=True)
library.define(BACKWARD, _backward_oracle, _backward_fake, cpu_only=True)
