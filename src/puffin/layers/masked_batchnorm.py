"""Batch normalisation over the valid rows of a tensor of features."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.all_reduce import AllReduceSum


class MaskedBatchNorm(nn.Module):
    """Normalise each channel over all rows of x (..., C), or over those where mask (...) is True.

    The biased variance normalises; the running estimate takes the unbiased one (and is unchanged by a single row).
    With `sync`, statistics are those of the rows of all ranks together, exactly, gradients included.  Parameter names
    are those of torch.nn.BatchNorm1d.

    The packed batches of this repository need no mask.  It is for padded tensors: padding takes no part in the
    statistics, and its rows of the result are 0.  Here two events have two points and one:

    >>> x = torch.tensor([[[1.0], [2.0]], [[6.0], [999.0]]])  # (B, N, C) = (2, 2, 1)
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> MaskedBatchNorm(1)(x, mask).detach().squeeze(-1)
    tensor([[-0.9258, -0.4629],
            [ 1.3887,  0.0000]])
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, sync: bool = False):
        super().__init__()
        self.eps, self.momentum, self.sync = eps, momentum, sync
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise x (..., C); mask (...) bool or None for all rows.  Raises ValueError for another width."""
        if x.dim() < 2 or x.shape[-1] != len(self.weight):
            raise ValueError(f"x: expected (..., {len(self.weight)}), got {tuple(x.shape)}")
        if mask is not None:
            out = torch.zeros_like(x)
            out[mask] = self(x[mask])
            return out
        if x.dim() > 2:
            return self(x.flatten(0, -2)).view(x.shape)
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if not self._synchronises() and len(x) > 1:  # PyTorch refuses a single row
            self.num_batches_tracked += 1
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = wide.sum(0) / max(len(x), 1)
        variance = (wide - mean).square().sum(0) / max(len(x), 1)
        scale, shift = self.normaliser(mean, variance, len(x))
        return torch.addcmul(shift, wide, scale).to(x.dtype)

    def normaliser(self, mean: Tensor, variance: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Return scale and shift (C,) of training mode from the mean and the biased variance of this rank's rows.

        Also updates the running statistics.
        """
        if self._synchronises():
            total = AllReduceSum.apply(torch.cat([mean * rows, mean.new_full((1,), float(rows))]))
            count = total[-1].detach()  # stays on the device: reading it would wait
            common = total[:-1] / count.clamp_min(1)
            squares = variance + (mean - common).square()
            mean, variance = common, AllReduceSum.apply(squares * rows) / count.clamp_min(1)
            self._track_common_(mean.detach(), variance.detach(), count)
        else:
            self.track_(mean.detach(), variance.detach(), float(rows))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift (C,) of eval mode: the result is scale x + shift."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    @torch.no_grad()
    def track_(self, mean: Tensor, variance: Tensor, rows: float) -> None:
        """Update the running statistics with the mean and the biased variance (C,) of a batch of `rows` rows."""
        self.num_batches_tracked += 1
        if rows > 0:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        if rows > 1:
            unbiased = variance * (rows / (rows - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)

    @torch.no_grad()
    def _track_common_(self, mean: Tensor, variance: Tensor, rows: Tensor) -> None:
        """Do the same as `track_` for a number of rows, (), that is on the device."""
        self.num_batches_tracked += 1
        wide = rows.double()
        unbiased = variance * (wide / (wide - 1)).to(variance.dtype)
        for running, new, known in ((self.running_mean, mean, rows > 0), (self.running_var, unbiased, rows > 1)):
            running.copy_(torch.where(known, running.lerp(new.to(running.dtype), self.momentum), running))

    def _synchronises(self) -> bool:
        return self.sync and dist.is_initialized() and dist.get_world_size() > 1

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}, sync={self.sync}"
