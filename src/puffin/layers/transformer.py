"""A vision transformer's blocks on packed tokens.

Source: docs/MATHEMATICS_CLOUDS.md, section 5; Dosovitskiy et al., arXiv 2010.11929.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.attention import Attention
from puffin.layers.packed import to_device
from puffin.settings.encoder import ARCHITECTURES, TransformerConfig


def batch_normalised(x: Tensor, eps: float = 1e-13) -> Tensor:
    """Subtract the mean of x (T, C) and divide by its standard deviation, both over all tokens and channels."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = x - x.mean()
    return centred * torch.rsqrt(centred.square().mean() + eps)


def token_normalised(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Subtract the mean of each token of x (T, C) and divide by its standard deviation."""
    return F.layer_norm(x, x.shape[1:], eps=eps)


class BatchWideNorm(nn.Module):
    """Apply `batch_normalised`, then a gain and a bias per channel.

    For published weights only: a token's value depends on every other event of the batch.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, batch_normalised(x), self.weight)


class DropPath(nn.Module):
    """Stochastic depth: drop a token's branch with probability p, and divide the other branches by 1 - p."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, branch: Tensor) -> Tensor:
        """Return branch (T, dim) with dropped rows set to 0."""
        if not self.training or self.p == 0:
            return branch
        return branch * F.dropout(branch.new_ones(len(branch), 1), self.p)

    def add(self, x: Tensor, branch: nn.Module, inputs: Tensor) -> Tensor:
        """Return x + branch(inputs) (T, dim) for a branch that acts on each token alone, and skips dropped tokens."""
        if not self.training or self.p == 0:
            return x + branch(inputs)
        active = to_device((torch.rand(len(x)) >= self.p).nonzero()[:, 0], x.device)  # drawn on the CPU: no wait
        return x.index_add(0, active, (branch(inputs[active]) / (1 - self.p)).to(x.dtype))

    def extra_repr(self) -> str:
        return f"p={self.p:.3f}"


class Block(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: TransformerConfig, drop_path: float):
        super().__init__()
        dim, heads = ARCHITECTURES[config.arch]
        norm = BatchWideNorm if config.batch_wide_norm else nn.LayerNorm
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.attention = Attention(dim, heads, config.attention_dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x), lengths))
        return self.drop_path.add(x, self.mlp, self.norm2(x))


class Transformer(nn.Module):
    """Map tokens x and position embeddings, (T, dim) each, to (T, dim).

    The position embedding is added to the input of every block.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        final = BatchWideNorm if config.batch_wide_norm else nn.LayerNorm
        self.norm = final(config.dim) if config.final_norm else nn.Identity()
        self.apply(init_weights)

    def outputs(self, x: Tensor, position: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        """Yield the output of each block; lengths (B,) int64 on the CPU: tokens of each event."""
        position = position.to(torch.promote_types(position.dtype, torch.float32))  # sums stay wide under autocast
        for block in self.blocks:
            x = block(x + position, lengths)
            yield x

    def forward(self, x: Tensor, position: Tensor, lengths: Tensor) -> Tensor:
        """Return the output of the last block after the final norm, if there is one."""
        last = x
        for output in self.outputs(x, position, lengths):
            last = output
        return self.norm(last)

    def normalised(self, x: Tensor) -> Tensor:
        """Normalise x (T, dim) as the norms of this network do, without gain and bias."""
        return batch_normalised(x) if self.config.batch_wide_norm else token_normalised(x)


def init_weights(module: nn.Module) -> None:
    """Initialise a linear layer as vision transformers do: normal of deviation 0.02 cut at +-2, bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
