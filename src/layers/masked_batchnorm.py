"""Batch normalisation over the valid rows of a table of features."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class _AllReduceSum(torch.autograd.Function):
    """Sum over all ranks, in the forward and in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


class MaskedBatchNorm(nn.Module):
    """Normalise each channel over the rows of x (M, C), or over those where mask (M,) is True.

    The variance that normalises is the biased one, the running estimate takes the unbiased one (one row: kept as is).
    Rows outside the mask come out as zero and take no part.  With `sync`, statistics are those of the rows of all
    ranks together, exactly, gradients included.  Parameter names are those of torch.nn.BatchNorm1d.
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
        if x.dim() != 2 or x.shape[1] != len(self.weight):
            raise ValueError(f"x: expected (rows, {len(self.weight)}), got {tuple(x.shape)}")
        if mask is not None:
            out = torch.zeros_like(x)
            out[mask] = self(x[mask])
            return out
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if self._synchronises():
            return self._synchronised(x)
        if len(x) < 2:  # PyTorch refuses a single row; its normalised value is 0 and its variance unknown
            return self._alone(x)
        self.num_batches_tracked += 1
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )

    def takes_own_statistics(self, rows: int) -> bool:
        """Whether a training batch of `rows` rows is normalised by its own statistics alone."""
        return rows > 1 and not self._synchronises()

    def affine(self) -> tuple[Tensor, Tensor]:
        """Eval mode as scale x + shift: two (C,)."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    @torch.no_grad()
    def track_(self, mean: Tensor, variance: Tensor, rows: float) -> None:
        """Take the mean and the biased variance (C,) of a batch of `rows` rows into the running statistics."""
        self.num_batches_tracked += 1
        if rows > 0:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        if rows > 1:
            unbiased = variance * (rows / (rows - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)

    def _synchronises(self) -> bool:
        return self.sync and dist.is_initialized() and dist.get_world_size() > 1

    def _alone(self, x: Tensor) -> Tensor:
        self.track_(x.detach().sum(0), torch.zeros_like(self.running_var), len(x))
        return (x - x.detach()) * self.weight + self.bias

    def _synchronised(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rows = wide.new_tensor([float(len(x))])
        total = _AllReduceSum.apply(torch.cat([wide.sum(0), rows]))
        count = total[-1].detach()
        mean = total[:-1] / count.clamp_min(1)
        var = _AllReduceSum.apply((wide - mean).square().sum(0)) / count.clamp_min(1)
        self.track_(mean.detach(), var.detach(), float(count))
        return ((wide - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}, sync={self.sync}"
