"""A signed power with a learnable exponent per channel: it compresses features over many orders of magnitude."""

import torch
from torch import Tensor

_CPU_ROWS = 2048  # rows at a time on a CPU, so that the dozen operations work on data in the cache


def signed_power(x: Tensor, exponent: Tensor, offset: float, signed: bool) -> Tensor:
    """Return sign(x) ((offset + |x|)^a - 1) / a per channel.

    x (M, C); exponent (C,), not 0; signed: False leaves the sign out.  Differentiable once, in x and exponent.

    >>> signed_power(torch.tensor([[-3.0], [0.0]]), torch.tensor([0.5]), 1.0, True)
    tensor([[-2.],
            [ 0.]])
    """
    return _SignedPower.apply(x, exponent, offset, signed)


def plain_signed_power(x: Tensor, exponent: Tensor, offset: float, signed: bool) -> Tensor:
    """Return the same as `signed_power` for x (..., C), in operations that an exporter can trace."""
    # operation by operation as in `_SignedPower`, whose rounding trained networks carry
    out = (((x.abs() + offset).log() * exponent).exp() - 1) / exponent
    return out * x.sign() if signed else out


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(_CPU_ROWS) if x.device.type == "cpu" else (x,)


class _SignedPower(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, exponent, offset, signed):
        ctx.offset, ctx.signed = offset, signed
        ctx.save_for_backward(x, exponent)
        out = torch.empty_like(x)
        for block, result in zip(_blocks(x), _blocks(out), strict=True):
            # not log1p and expm1: trained float32 networks carry the rounding of the plain formula
            torch.abs(block, out=result).add_(offset).log_().mul_(exponent).exp_().sub_(1).div_(exponent)
            if signed:
                result.mul_(block.sign())
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, exponent = ctx.saved_tensors
        grad_x, grad_exponent = torch.empty_like(x), torch.zeros_like(exponent)
        for block, outer, result in zip(_blocks(x), _blocks(grad), _blocks(grad_x), strict=True):
            sign = block.sign()
            outer = outer * sign if ctx.signed else outer
            base = block.abs().add_(ctx.offset)
            log = base.log()
            power = torch.mul(log, exponent, out=result).exp_().mul_(outer)  # times the outer gradient from here on
            grad_exponent += (log.mul_(power).sum(0) - (power.sum(0) - outer.sum(0)) / exponent) / exponent
            power.div_(base).mul_(sign)
        return grad_x, grad_exponent, None, None
