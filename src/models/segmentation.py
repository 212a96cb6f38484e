"""Semantic segmentation of point clouds: a pretrained encoder, and a head that gives each point class scores.

Source: arXiv 2502.02558, sec. 4; spec/polarmae.md section 8.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.grouping import Tokens
from ..layers.masked_batchnorm import MaskedBatchNorm
from ..layers.packed import offsets
from ..layers.upsample import Upsampler, global_features, nearest_tokens
from ..ops.segments import segment_expand
from .point_encoder import EncoderConfig, PointEncoder


@dataclass(frozen=True)
class SegmentationConfig:
    """Everything that shapes a segmentation network.

    layers: blocks of the encoder, counted from 0, whose outputs are averaged.  head_dim: width of the head's first
    layer, half of it in the second."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    num_classes: int = 4
    layers: tuple[int, ...] = (3, 7, 11)
    head_dim: int = 512
    dropout: float = 0.5
    neighbours: int = 5

    def __post_init__(self):
        depth = self.encoder.transformer.depth
        if not self.layers or not all(0 <= layer < depth for layer in self.layers):
            raise ValueError(f"layers: expected blocks of the encoder, 0 to {depth - 1}, got {self.layers}")


class Segmented(NamedTuple):
    """logits (P, num_classes) of the points, and the tokens of their events."""

    logits: Tensor
    tokens: Tokens


class SegmentationHead(nn.Module):
    """Point features (P, dim) and event features (B, 2 dim) -> logits (P, num_classes)."""

    def __init__(self, dim: int, config: SegmentationConfig):
        super().__init__()
        width, sync = config.head_dim, config.encoder.sync_batchnorm
        self.linear1 = nn.Linear(3 * dim, width, bias=False)  # of [point, largest, mean]
        self.norm1 = MaskedBatchNorm(width, sync=sync)
        self.dropout = nn.Dropout(config.dropout)
        self.linear2 = nn.Linear(width, width // 2, bias=False)
        self.norm2 = MaskedBatchNorm(width // 2, sync=sync)
        self.linear3 = nn.Linear(width // 2, config.num_classes)

    def forward(self, x: Tensor, event: Tensor, lengths: Tensor) -> Tensor:
        """lengths (B,) int64 on the CPU: points of each event."""
        of_point, of_event = self.linear1.weight.split((x.shape[1], event.shape[1]), 1)
        x = F.linear(x, of_point) + segment_expand(F.linear(event, of_event), offsets(lengths).to(x.device), len(x))
        x = self.dropout(F.relu(self.norm1(x)))
        x = F.relu(self.norm2(self.linear2(x)))
        return self.linear3(x)


class Segmentation(nn.Module):
    """Points (P, 4) of B events -> class scores of each."""

    def __init__(self, config: SegmentationConfig):
        super().__init__()
        self.config = config
        self.encoder = PointEncoder(config.encoder)
        self.upsampler = Upsampler(config.encoder.dim, config.encoder.sync_batchnorm)
        self.head = SegmentationHead(config.encoder.dim, config)

    def forward(self, points: Tensor, lengths: Tensor) -> Segmented:
        """points (P, 4) packed, lengths (B,) int64 on the CPU."""
        tokens = self.encoder.tokenize(points, lengths)
        features = self._features(tokens)
        neighbours = nearest_tokens(points, lengths, tokens.centres, tokens.lengths, self.config.neighbours)
        x = self.upsampler(points, features, neighbours)
        return Segmented(self.head(x, global_features(features, tokens.lengths), lengths), tokens)

    def _features(self, tokens: Tokens) -> Tensor:
        """(T, dim): mean of the normalised outputs of the chosen blocks."""
        transformer = self.encoder.transformer
        outputs = transformer.outputs(self.encoder.embed(tokens), self.encoder.position(tokens.centres), tokens.lengths)
        chosen = [transformer.normalised(x) for block, x in enumerate(outputs) if block in self.config.layers]
        return torch.stack(chosen).mean(0)
