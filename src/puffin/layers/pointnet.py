"""The mini-PointNet that embeds the points of a token.

Source: docs/MATHEMATICS_CLOUDS.md, sections 4 and 6; Qi et al., arXiv 1612.00593.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.packed import offsets, rank_in_event, to_device
from puffin.ops.segments import segment_expand, segment_extremum

_FIRST, _STAGE, _SECOND = 128, 256, 512


class OrderCode(nn.Module):
    """An embedding of the position of a point in its group: ReLU(Linear(sinusoids of 0..size-1)), (size, width)."""

    def __init__(self, size: int, width: int = _STAGE):
        super().__init__()
        frequency = torch.exp(-math.log(1e4) / (width // 2 - 1) * torch.arange(width // 2))
        angle = torch.arange(size)[:, None] * frequency
        self.register_buffer("sinusoids", torch.cat([angle.sin(), angle.cos()], 1), persistent=False)
        self.linear = nn.Linear(width, width)

    def forward(self) -> Tensor:
        return F.relu(self.linear(self.sinusoids))


class MiniPointNet(nn.Module):
    """Map the points (G, in_channels) of T groups to (T, dim); every group must have a point.

    ordered: add the order code to the first stage.  padding_row: as in published networks, a group of fewer than `size`
    points also holds padding points, which batch normalisation sets to its bias and which take part in both maxima
    (docs/MATHEMATICS_CLOUDS.md, section 4).
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        size: int,
        *,
        ordered: bool = False,
        padding_row: bool = False,
        sync: bool = False,
    ):
        super().__init__()
        self.size, self.padding_row = size, padding_row
        self.first = nn.Linear(in_channels, _FIRST, bias=False)
        self.first_norm = MaskedBatchNorm(_FIRST, sync=sync)
        self.stage = nn.Linear(_FIRST, _STAGE)
        self.order = OrderCode(size) if ordered else None
        self.second = nn.Linear(2 * _STAGE, _SECOND, bias=False)  # of [maximum of the group, point]
        self.second_norm = MaskedBatchNorm(_SECOND, sync=sync)
        self.out = nn.Linear(_SECOND, dim)

    def forward(self, groups: Tensor, counts: Tensor) -> Tensor:
        """Embed groups (G, in_channels), one after another; counts (T,) int64 on the CPU, 1..size points of each."""
        ptr = to_device(offsets(counts), groups.device)
        code = None if self.order is None else self.order()
        x = self.stage(F.relu(self.first_norm(self.first(groups))))
        if code is not None:
            x = x + code[to_device(rank_in_event(counts), groups.device)]
        largest = segment_extremum(x, ptr, True)
        if self.padding_row:
            padding = self.stage(F.relu(self.first_norm.bias)).expand(self.size, -1)
            largest = self._with_padding(largest, padding if code is None else padding + code, counts)
        # Linear [maximum, point] = one product per group + one per point
        of_group, of_point = self.second.weight.split(_STAGE, 1)
        x = F.linear(x, of_point) + segment_expand(F.linear(largest, of_group), ptr, len(x))
        x = self.out(F.relu(self.second_norm(x)))
        largest = segment_extremum(x, ptr, True)
        if self.padding_row:
            padding = self.out(F.relu(self.second_norm.bias)).expand(self.size, -1)
            largest = self._with_padding(largest, padding, counts)
        return largest

    def _with_padding(self, largest: Tensor, padding: Tensor, counts: Tensor) -> Tensor:
        """Return the maximum of largest (T, C) and the padding rows (size, C) from each group's count on."""
        later = padding.flip(0).cummax(0).values.flip(0)
        counts = to_device(counts, largest.device)
        short = (counts < self.size)[:, None]
        candidate = later[counts.clamp(max=self.size - 1)].to(largest.dtype)
        return torch.where(short, torch.maximum(largest, candidate), largest)
