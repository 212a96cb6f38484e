"""Learnable compression of invariants, which span many orders of magnitude."""

import torch
from torch import Tensor, nn


class _SignedPower(torch.autograd.Function):
    """sign(x) ((offset + |x|)^a - 1) / a per channel; sign is left out when `signed` is False."""

    @staticmethod
    def forward(ctx, x, a, offset, signed):
        ctx.offset, ctx.signed = offset, signed
        ctx.save_for_backward(x, a)
        # not log1p and expm1: trained float32 networks carry the rounding of the plain formula
        out = x.abs().add_(offset).log_().mul_(a).exp_().sub_(1).div_(a)
        return out.mul_(x.sign()) if signed else out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, a = ctx.saved_tensors
        base = x.abs().add_(ctx.offset)
        sign = x.sign()
        outer = grad * sign if ctx.signed else grad
        log = base.log()
        power = (log * a).exp_().mul_(outer)  # times the outer gradient from here on
        d_a = (log.mul_(power).sum(0) - (power.sum(0) - outer.sum(0)) / a) / a
        return power.div_(base).mul_(sign), d_a, None, None


class InputEncoder(nn.Module):
    """Pair inputs (P, C) -> (P, C): sign(x) ((1 + |x|)^a - 1) / a with a = 1e-6 + alpha^2, alpha learnable per channel.

    IRC-safe: ((1e-5 + |x|)^a - 1) / a.  alpha starts as linspace(0.05, 0.5, C).
    """

    def __init__(self, num_channels: int, irc_safe: bool = False):
        super().__init__()
        self.irc_safe = irc_safe
        self.rank2_alphas = nn.Parameter(torch.linspace(0.05, 0.5, num_channels))

    def forward(self, x: Tensor) -> Tensor:
        a = 1e-6 + self.rank2_alphas.square()
        return _SignedPower.apply(x, a, 1e-5 if self.irc_safe else 1, not self.irc_safe)
