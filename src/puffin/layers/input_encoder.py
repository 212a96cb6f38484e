"""Learnable compression of invariants, which span many orders of magnitude."""

import torch
from torch import Tensor, nn

_CPU_ROWS = 2048  # rows at a time on a CPU: a dozen operations on what stays in the cache


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(_CPU_ROWS) if x.device.type == "cpu" else (x,)


class _SignedPower(torch.autograd.Function):
    """sign(x) ((offset + |x|)^a - 1) / a per channel; sign is left out when `signed` is False."""

    @staticmethod
    def forward(ctx, x, a, offset, signed):
        ctx.offset, ctx.signed = offset, signed
        ctx.save_for_backward(x, a)
        out = torch.empty_like(x)
        for part, result in zip(_blocks(x), _blocks(out), strict=True):
            # not log1p and expm1: trained float32 networks carry the rounding of the plain formula
            torch.abs(part, out=result).add_(offset).log_().mul_(a).exp_().sub_(1).div_(a)
            if signed:
                result.mul_(part.sign())
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, a = ctx.saved_tensors
        out, d_a = torch.empty_like(x), torch.zeros_like(a)
        for part, outer, result in zip(_blocks(x), _blocks(grad), _blocks(out), strict=True):
            sign = part.sign()
            outer = outer * sign if ctx.signed else outer
            base = part.abs().add_(ctx.offset)
            log = base.log()
            power = torch.mul(log, a, out=result).exp_().mul_(outer)  # times the outer gradient from here on
            d_a += (log.mul_(power).sum(0) - (power.sum(0) - outer.sum(0)) / a) / a
            power.div_(base).mul_(sign)
        return out, d_a, None, None


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
