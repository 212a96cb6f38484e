"""From tokens back to points: inverse-distance interpolation.

Source: docs/MATHEMATICS_CLOUDS.md, section 8; Qi et al., arXiv 1706.02413 (feature propagation).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.packed import event_of_row, offsets, pad, to_device, unpad
from puffin.ops.neighbors import knn
from puffin.ops.segments import segment_extremum, segment_sum


class Neighbours(NamedTuple):
    """For each of P points, the rows of k tokens, (P, k) int64, and their weights (P, k), which add up to 1."""

    rows: Tensor
    weights: Tensor


@torch.no_grad()
def nearest_tokens(
    points: Tensor, lengths: Tensor, centres: Tensor, token_lengths: Tensor, k: int = 5, eps: float = 1e-8
) -> Neighbours:
    """Find the k nearest token centres of each point, weighted by 1 / (squared distance + eps).

    points (P, 3 or more), centres (T, 3), lengths and token_lengths (B,) int64 on the CPU.  If an event has fewer than
    k tokens, the missing ones have weight 0; if it has none, all have, and their rows are 0.
    """
    device = points.device
    squared, index = knn(
        pad(points[:, :3], lengths),
        pad(centres, token_lengths),
        to_device(lengths, device),
        to_device(token_lengths, device),
        k,
    )
    squared, index = unpad(squared, lengths), unpad(index, lengths)
    begin = to_device(offsets(token_lengths)[:-1][event_of_row(lengths)], device)
    weights = 1 / (squared + eps)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return Neighbours(torch.where(index >= 0, index + begin[:, None], 0), weights)


def interpolate(features: Tensor, neighbours: Neighbours) -> Tensor:
    """Add up the weighted token features (T, C) of each point: (P, C).

    Half precision is added up in float32.  No (P, k, C) table is made.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if len(features) == 0:
        return features.new_zeros(len(neighbours.rows), features.shape[1])
    weights = neighbours.weights.to(features.dtype)
    return F.embedding_bag(neighbours.rows, features, mode="sum", per_sample_weights=weights)


class Upsampler(nn.Module):
    """Map token features (T, dim) to point features (P, dim) by an MLP on [x, y, z, interpolated features]."""

    def __init__(self, dim: int, sync: bool = False):
        super().__init__()
        self.linear1 = nn.Linear(3 + dim, dim, bias=False)
        self.linear2 = nn.Linear(dim, dim, bias=False)
        self.norm1, self.norm2 = MaskedBatchNorm(dim, sync=sync), MaskedBatchNorm(dim, sync=sync)

    def forward(self, points: Tensor, features: Tensor, neighbours: Neighbours) -> Tensor:
        """Interpolate features (T, dim) at points (P, 3 or more), and apply the MLP: (P, dim)."""
        # the product commutes with the interpolation, and there are far fewer tokens than points
        of_position, of_features = self.linear1.weight.split((3, features.shape[1]), 1)
        x = F.linear(points[:, :3], of_position) + interpolate(F.linear(features, of_features), neighbours)
        x = F.relu(self.norm1(x))
        return F.relu(self.norm2(self.linear2(x)))


def global_features(features: Tensor, lengths: Tensor) -> Tensor:
    """Return [maximum, mean] over the tokens (T, dim) of each event: (B, 2 dim); lengths (B,) int64 on the CPU."""
    ptr = to_device(offsets(lengths), features.device)
    number = to_device(lengths.clamp(min=1), features.device).to(features.dtype)[:, None]
    return torch.cat([segment_extremum(features, ptr, True), segment_sum(features, ptr) / number], 1)
