"""Low-rank updates of frozen linear layers.  Source: Hu et al., arXiv 2106.09685."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.attention import Attention


class LoRALinear(nn.Linear):
    """Compute x W^T + b + (alpha / rank) x (up down)^T: W and b are frozen, down (rank, in) and up (out, rank) learn.

    W and b have the names of the plain layer, so that its weights can be loaded.  `up` starts at zero, so that a new
    layer computes the same as the plain one.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        if rank < 1:
            raise ValueError(f"lora_rank: expected at least 1, got {rank}")
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, in_features) / in_features**0.5)
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        self.weight.requires_grad_(False)
        if bias:
            self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:  # avoids the gradient of a whole weight matrix
            return super().forward(x) + self.scale * F.linear(F.linear(x, self.down), self.up)
        return F.linear(x, self.merged(), self.bias)

    def merged(self) -> Tensor:
        """Return the weight (out, in) of the plain layer that computes the same."""
        return self.weight + self.scale * self.up @ self.down

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={len(self.down)}, scale={self.scale:g}"


def add_lora_(module: nn.Module, rank: int, alpha: float) -> None:
    """Freeze a module, and add low-rank updates to the linear layers of its attention (qkv and projection)."""
    module.requires_grad_(False)
    for attention in [m for m in module.modules() if isinstance(m, Attention)]:
        for name in ("qkv", "proj"):
            plain = getattr(attention, name)
            tuned = LoRALinear(plain.in_features, plain.out_features, rank, alpha)
            tuned.load_state_dict(plain.state_dict(), strict=False)
            setattr(attention, name, tuned)
