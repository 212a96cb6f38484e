"""Semantic segmentation of point clouds: a network that predicts class scores of every point.

Source: docs/MATHEMATICS_CLOUDS.md, section 8; arXiv 2502.02558, sec. 4.
"""

from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.geometry_inputs import GeometryInputs
from puffin.layers.grouping import Tokens
from puffin.layers.lora import add_lora_
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.packed import offsets, to_device
from puffin.layers.transformer import Transformer
from puffin.layers.upsample import Upsampler, global_features, nearest_tokens
from puffin.models.parameter_groups import parameter_groups
from puffin.models.point_encoder import PointEncoder
from puffin.models.unet import VoxelFeatures
from puffin.ops.segments import segment_expand
from puffin.settings.clouds import SegmentationConfig


class Segmented(NamedTuple):
    """The logits (P, num_classes) of the points, and the number of tokens that each event had too many (B,)."""

    logits: Tensor
    dropped: Tensor


class VoxelSegmentation(VoxelFeatures):
    """Map points (P, 4) of B events to class scores of each point, with a U-Net on their voxels."""

    def __init__(self, config: SegmentationConfig):
        super().__init__(config)
        self.config = config
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(self.width, config.num_classes)

    def forward(self, points: Tensor, lengths: Tensor) -> Segmented:
        """Classify points (P, 4), packed; lengths (B,) int64 on the CPU."""
        x = self.features(points, lengths)
        return Segmented(self.head(self.dropout(x)), lengths.new_zeros(len(lengths)))

    def parameter_groups(self, layer_decay: float = 1.0, head_factor: float = 1.0) -> list[dict]:
        """Group the parameters (see parameter_groups.py).

        ValueError for a layer_decay, as a U-Net has no sequence of blocks."""
        if layer_decay != 1:
            raise ValueError(f"layer_decay: expected 1 for a U-Net, got {layer_decay}")
        below = nn.ModuleList(part for name, part in self.named_children() if name != "head")
        return parameter_groups(self, [below], head_factor=head_factor)


class SegmentationHead(nn.Module):
    """Map point features (P, dim) and event features (B, event_dim) to logits (P, num_classes)."""

    def __init__(self, dim: int, event_dim: int, config: SegmentationConfig):
        super().__init__()
        width, sync = config.head_dim, config.encoder.sync_batchnorm
        self.linear1 = nn.Linear(dim + event_dim, width, bias=False)
        self.norm1 = MaskedBatchNorm(width, sync=sync)
        self.dropout = nn.Dropout(config.head_dropout)
        self.linear2 = nn.Linear(width, width // 2, bias=False)
        self.norm2 = MaskedBatchNorm(width // 2, sync=sync)
        self.linear3 = nn.Linear(width // 2, config.num_classes)

    def forward(self, x: Tensor, event: Tensor, lengths: Tensor) -> Tensor:
        """Compute the logits; lengths (B,) int64 on the CPU: points of each event."""
        of_point, of_event = self.linear1.weight.split((x.shape[1], event.shape[1]), 1)
        ptr = to_device(offsets(lengths), x.device)
        x = F.linear(x, of_point) + segment_expand(F.linear(event, of_event), ptr, len(x))
        x = self.dropout(F.relu(self.norm1(x)))
        x = F.relu(self.norm2(self.linear2(x)))
        return self.linear3(x)


class Segmentation(nn.Module):
    """Map points (P, 4) of B events to class scores of each point, with a transformer on tokens of points."""

    def __init__(self, config: SegmentationConfig):
        super().__init__()
        self.config = config
        self.encoder = PointEncoder(config.encoder)
        transformer = config.encoder.transformer
        self.decoder = None
        if config.head_depth:
            self.decoder = Transformer(replace(transformer, depth=config.head_depth, final_norm=True))
        self.upsampler = Upsampler(config.encoder.dim, config.encoder.sync_batchnorm)
        self.geometry = GeometryInputs(config.encoder.sync_batchnorm) if config.geometry else None
        of_point = config.encoder.dim + (GeometryInputs.width if config.geometry else 0)
        self.head = SegmentationHead(of_point, 2 * config.encoder.dim, config)  # of an event: maximum and mean
        if config.finetune == "peft":
            self.encoder.requires_grad_(False)
        elif config.finetune == "lora":
            add_lora_(self.encoder, config.lora_rank, config.lora_alpha)
        # later blocks and their low-rank updates are never called
        self.encoder.transformer.blocks[self._last_block + 1 :].requires_grad_(False)
        self.train()

    @property
    def _last_block(self) -> int:
        return max(self.config.averaged_layers)

    def train(self, mode: bool = True) -> "Segmentation":
        """Set the mode; frozen parts stay in eval mode, so that their running statistics and outputs do not change."""
        super().train(mode)
        if self.config.finetune == "peft":
            self.encoder.eval()
        elif self.config.finetune == "lora":
            self.encoder.embedding.eval()
        return self

    def forward(self, points: Tensor, lengths: Tensor) -> Segmented:
        """Classify points (P, 4), packed; lengths (B,) int64 on the CPU."""
        tokens = self.encoder.tokenize(points, lengths)
        features = self.token_features(tokens)
        neighbours = nearest_tokens(points, lengths, tokens.centres, tokens.lengths, self.config.neighbours)
        x = self.upsampler(points, features, neighbours)
        if self.geometry is not None:
            x = torch.cat([x, self.geometry(points, lengths).to(x.dtype)], 1)
        return Segmented(self.head(x, global_features(features, tokens.lengths), lengths), tokens.dropped)

    def token_features(self, tokens: Tokens) -> Tensor:
        """Average the normalised outputs of the chosen blocks, then run the blocks of the head, if any: (T, dim)."""
        transformer, position = self.encoder.transformer, self.encoder.position(tokens.centres)
        outputs = islice(
            transformer.outputs(self.encoder.embed(tokens), position, tokens.lengths), self._last_block + 1
        )
        chosen = [transformer.normalised(x) for block, x in enumerate(outputs) if block in self.config.averaged_layers]
        features = torch.stack(chosen).mean(0)
        return features if self.decoder is None else self.decoder(features, position, tokens.lengths)

    def parameter_groups(self, layer_decay: float = 1.0, head_factor: float = 1.0) -> list[dict]:
        """Group the trainable parameters (see parameter_groups.py); the embedding is the stage before the blocks."""
        encoder = self.encoder
        embedding = nn.ModuleList([encoder.embedding, encoder.position])
        stages = [embedding, *encoder.transformer.blocks[: self._last_block + 1]]
        return parameter_groups(self, stages, layer_decay, head_factor)


SegmentationNetwork = Segmentation | VoxelSegmentation


def segmentation_network(config: SegmentationConfig) -> SegmentationNetwork:
    """Make the network of these settings, with random weights."""
    return VoxelSegmentation(config) if config.backbone == "unet" else Segmentation(config)
