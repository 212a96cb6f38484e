"""The encoder of point clouds: tokens, their embedding, a transformer.

Source: arXiv 2502.02558, sec. 3; spec/polarmae.md sections 3 to 5.
"""

from typing import NamedTuple

from torch import Tensor, nn

from puffin.layers.grouping import Tokens, tokenize
from puffin.layers.pointnet import MiniPointNet
from puffin.layers.transformer import Transformer
from puffin.settings.encoder import EncoderConfig


class Encoded(NamedTuple):
    """Tokens, and for each of them its output (T, dim)."""

    tokens: Tokens
    features: Tensor


class PointEncoder(nn.Module):
    """Points (P, 4) of B events -> tokens (T, dim).  Models and the linear probe stand on it."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        dim, size = config.dim, config.tokens.group_size
        self.embedding = MiniPointNet(
            config.in_channels, dim, size, padding_row=config.published_norms, sync=config.sync_batchnorm
        )
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))
        self.transformer = Transformer(config.transformer)

    def tokenize(self, points: Tensor, lengths: Tensor) -> Tokens:
        """Tokens of packed points (P, in_channels), lengths (B,) int64 on the CPU.  No weights are involved."""
        if points.dim() != 2 or points.shape[1] != self.config.in_channels:
            raise ValueError(f"points: expected (P, {self.config.in_channels}), got {tuple(points.shape)}")
        return tokenize(points, lengths, self.config.tokens)

    def embed(self, tokens: Tokens) -> Tensor:
        """What the transformer takes in, without the position: (T, dim)."""
        return self.embedding(tokens.groups, tokens.counts)

    def encode(self, tokens: Tokens) -> Tensor:
        """(T, dim): the transformer's output on these tokens, each seeing those of its event."""
        return self.transformer(self.embed(tokens), self.position(tokens.centres), tokens.lengths)

    def forward(self, points: Tensor, lengths: Tensor) -> Encoded:
        """Encode all tokens, nothing masked."""
        tokens = self.tokenize(points, lengths)
        return Encoded(tokens, self.encode(tokens))
