"""Voxels of events at several resolutions, and convolutions that compute where voxels are and nowhere else.

Source: submanifold sparse convolutions, arXiv 1711.10275, sec. 3; generalised sparse convolutions, arXiv 1904.08755.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from puffin.detector import PILARNET
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.packed import offsets, to_device
from puffin.ops.segments import segment_expand, segment_sum
from puffin.ops.sparse_conv import sparse_conv
from puffin.ops.voxels import coarsen, merge_voxels, voxel_neighbours, voxel_order


class Table(NamedTuple):
    """Which source row each target row takes at each offset, and the reverse; see `puffin.ops.sparse_conv`.

    forward: (T, K) int32 rows of the source, -1 where there is none; backward: (S, K) int32 rows of the target.
    """

    forward: Tensor
    backward: Tensor

    def reverse(self) -> "Table":
        """Return the table of the transposed convolution, from the targets to the sources."""
        return Table(self.backward, self.forward)


class Pyramid(NamedTuple):
    """Voxels at several resolutions, the finest first: neighbours[k], the table of the 27 voxels around each voxel of
    level k, coarser[k], that of the strided convolution from level k to level k + 1, and ptr[k] (B + 1,) int64, the
    first voxel of each event at level k."""

    neighbours: tuple[Table, ...]
    coarser: tuple[Table, ...]
    ptr: tuple[Tensor, ...]


class Voxels(NamedTuple):
    """Points in voxels: `order` sorts the points by voxel, and voxel v holds the sorted points ptr[v] to ptr[v + 1].

    order (P,) int64; ptr (V + 1,) int64.
    """

    order: Tensor
    ptr: Tensor
    pyramid: Pyramid

    def mean(self, x: Tensor) -> Tensor:
        """Average features of the points, (P, C), over each voxel: (V, C)."""
        x = x.index_select(0, self.order)
        if len(self.ptr) == len(x) + 1:  # one point in each voxel, as in every event that was not rotated
            return x
        return segment_sum(x, self.ptr) / self.ptr.diff()[:, None].to(x.dtype)

    def to_points(self, x: Tensor) -> Tensor:
        """Give each point the features of its voxel: x (V, C) -> (P, C)."""
        if len(self.ptr) != len(self.order) + 1:
            x = segment_expand(x, self.ptr, len(self.order))
        return torch.empty_like(x).index_copy(0, self.order, x)


def voxel_coordinates(points: Tensor) -> Tensor:
    """Return the voxel (P, 3) int64 of each point (P, 3 or more), in units of half the detector's diagonal."""
    return PILARNET.voxels(points[:, :3].double()).round().long()


@torch.no_grad()
def voxelise(points: Tensor, lengths: Tensor, levels: int) -> Voxels:
    """Sort points (P, 3 or more), in units of half the detector's diagonal, into voxels; lengths (B,) on the CPU."""
    coordinates = voxel_coordinates(points)
    ptr = to_device(offsets(lengths), points.device)
    order = voxel_order(coordinates, ptr)
    coordinates = coordinates.index_select(0, order)
    first, _, voxel_ptr = merge_voxels(coordinates, ptr)
    points_before = torch.cat([first, first.new_full((1,), len(coordinates))])
    return Voxels(order, points_before, make_pyramid(coordinates[first], voxel_ptr, levels))


def make_pyramid(coordinates: Tensor, ptr: Tensor, number: int) -> Pyramid:
    """Halve the resolution number - 1 times.

    coordinates (V, 3) int64 of voxels, in the order of `voxel_order`; ptr (B + 1,) int64: first voxel of each event."""
    tables, coarser, first = [], [], []
    for number_left in reversed(range(number)):
        neighbours = voxel_neighbours(coordinates, ptr)
        tables.append(Table(neighbours, neighbours.flip(1)))  # offset k is opposite to 26 - k
        first.append(ptr)
        if number_left:
            coordinates, ptr, children, parents = coarsen(coordinates, ptr)
            coarser.append(Table(children, parents))
    return Pyramid(tuple(tables), tuple(coarser), tuple(first))


class SparseConv(nn.Module):
    """Multiply the source rows that a table names by the weight of their offset, and add them up.

    offsets: 27 for a convolution over the neighbours of a voxel, 8 to or from the next level."""

    def __init__(self, channels_in: int, channels_out: int, offsets: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(offsets, channels_in, channels_out))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (offsets * channels_in)))

    def forward(self, x: Tensor, table: Table) -> Tensor:
        """Map x (S, channels_in) to (T, channels_out)."""
        return sparse_conv(x, self.weight, table.forward, table.backward)

    def extra_repr(self) -> str:
        return "offsets={}, channels_in={}, channels_out={}".format(*self.weight.shape)


class ConvNorm(nn.Module):
    """A sparse convolution and a batch norm."""

    def __init__(self, channels_in: int, channels_out: int, offsets: int, sync: bool):
        super().__init__()
        self.conv = SparseConv(channels_in, channels_out, offsets)
        self.norm = MaskedBatchNorm(channels_out, sync=sync)

    def forward(self, x: Tensor, table: Table) -> Tensor:
        """Map x (S, channels_in) to (T, channels_out)."""
        return self.norm(self.conv(x, table))


class ResidualBlock(nn.Module):
    """Two convolutions over neighbouring voxels beside a shortcut.  Source: arXiv 1512.03385; 1904.08755, sec. 4."""

    def __init__(self, channels_in: int, channels_out: int, sync: bool):
        super().__init__()
        self.first = ConvNorm(channels_in, channels_out, 27, sync)
        self.second = ConvNorm(channels_out, channels_out, 27, sync)
        self.shortcut = nn.Linear(channels_in, channels_out, bias=False) if channels_in != channels_out else None

    def forward(self, x: Tensor, table: Table) -> Tensor:
        """Map x (V, channels_in) to (V, channels_out)."""
        beside = x if self.shortcut is None else self.shortcut(x)
        return (self.second(self.first(x, table).relu(), table) + beside).relu()


class ResidualBlocks(nn.Module):
    """Residual blocks one after another."""

    def __init__(self, channels_in: int, channels_out: int, number: int, sync: bool):
        super().__init__()
        widths = [channels_in, *[channels_out] * number]
        self.blocks = nn.ModuleList([ResidualBlock(a, b, sync) for a, b in pairwise(widths)])

    def forward(self, x: Tensor, table: Table) -> Tensor:
        """Map x (V, channels_in) to (V, channels_out)."""
        for block in self.blocks:
            x = block(x, table)
        return x
