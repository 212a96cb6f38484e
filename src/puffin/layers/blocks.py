"""Cubic blocks of voxels, the parts of an event that a masked autoencoder of voxels hides."""

from dataclasses import dataclass

import torch
from torch import Tensor

from puffin.layers.grouping import count_chosen
from puffin.layers.packed import check_packed, offsets, to_device
from puffin.layers.voxels import voxel_coordinates
from puffin.ops.voxels import merge_voxels, voxel_order


@dataclass(frozen=True)
class Blocks:
    """T occupied blocks of B events, and their points, one block after another.

    points (P, D).  On the CPU, int64: counts (T,) points of each block; lengths (B,) blocks of each event.  The blocks
    of an event follow the Morton curve.
    """

    points: Tensor
    counts: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def point_lengths(self) -> Tensor:
        """Number of points of each event, (B,) int64 on the CPU."""
        return offsets(self.counts)[offsets(self.lengths)].diff()

    @property
    def dropped(self) -> Tensor:
        """Number of blocks that each event had too many, (B,) int64: always 0, as for `Tokens` without a limit."""
        return torch.zeros_like(self.lengths)

    def select(self, chosen: Tensor) -> "Blocks":
        """Return the blocks where chosen (T,) bool, on the CPU, is True."""
        point = to_device(chosen.repeat_interleave(self.counts).nonzero()[:, 0], self.points.device)
        return Blocks(self.points[point], self.counts[chosen], count_chosen(chosen, self.lengths))


def split_into_blocks(points: Tensor, lengths: Tensor, level: int) -> Blocks:
    """Sort points (P, 3 or more) into blocks with edges of 2^level voxels; lengths (B,) int64 on the CPU.

    The corners of the blocks are at multiples of their edge, so the blocks are the voxels of that level of `voxelise`.
    Waits for a GPU: the number of points per block decides the sizes of all that follows.
    """
    check_packed(points, lengths, 3)
    ptr = to_device(offsets(lengths), points.device)
    coordinates = voxel_coordinates(points)
    order = voxel_order(coordinates, ptr)
    first, _, block_ptr = merge_voxels(coordinates.index_select(0, order) >> level, ptr)
    counts = torch.cat([first, first.new_full((1,), len(points))]).diff()
    return Blocks(points.index_select(0, order), counts.cpu(), block_ptr.diff().cpu())
