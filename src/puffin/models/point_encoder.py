"""The encoder of point clouds: tokens, their embedding, a transformer.

Source: arXiv 2502.02558, sec. 3; docs/MATHEMATICS_CLOUDS.md, sections 3 to 5.
"""

from typing import NamedTuple

from torch import Tensor, nn

from puffin.layers.grouping import Tokens, tokenize
from puffin.layers.pointnet import MiniPointNet
from puffin.layers.transformer import Transformer
from puffin.settings.encoder import EncoderConfig


class Encoded(NamedTuple):
    """Tokens, and the output of the encoder for each of them (T, dim)."""

    tokens: Tokens
    features: Tensor


class PointEncoder(nn.Module):
    """Map points (P, 4) of B events to tokens (T, dim), for models and the linear probe."""

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
        """Group packed points (P, in_channels) into tokens, without weights; lengths (B,) int64 on the CPU."""
        if points.dim() != 2 or points.shape[1] != self.config.in_channels:
            raise ValueError(f"points: expected (P, {self.config.in_channels}), got {tuple(points.shape)}")
        return tokenize(points, lengths, self.config.tokens)

    def embed(self, tokens: Tokens) -> Tensor:
        """Embed the points of each token, (T, dim): the input of the transformer without the position."""
        return self.embedding(tokens.groups, tokens.counts)

    def encode(self, tokens: Tokens) -> Tensor:
        """Run the transformer on these tokens, (T, dim); each attends to those of its event."""
        return self.transformer(self.embed(tokens), self.position(tokens.centres), tokens.lengths)

    def forward(self, points: Tensor, lengths: Tensor) -> Encoded:
        """Encode all tokens of points (P, in_channels); lengths (B,) int64 on the CPU."""
        tokens = self.tokenize(points, lengths)
        return Encoded(tokens, self.encode(tokens))
