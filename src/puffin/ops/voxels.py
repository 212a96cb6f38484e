"""Voxels of sparse events: their order along the Morton curve, their neighbours, and the coarser lattice above them.

coordinates (V, 3) int64 or int32 are the positions of the occupied voxels on an integer lattice, between -2^61 and
2^61.  ptr (B + 1,) int64 on the same device is the first row of each event, from 0 to V; an event may be empty.
Source of the order: G. M. Morton, "A computer oriented geodetic data base", IBM (1966).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.segments import check_ptr, segment_of_row

NEIGHBOURS = "voxel_neighbours(Tensor coordinates, Tensor ptr) -> Tensor"
_BITS = 21  # three coordinates of 21 bits are the 63 bits of a Morton code
_ALIGNED = 16  # rows remain sorted on this number of coarser lattices
_SPREAD = {  # shift: the bits that remain, of which the last mask has every third
    32: 0x1F00000000FFFF,
    16: 0x1F0000FF0000FF,
    8: 0x100F00F00F00F00F,
    4: 0x10C30C30C30C30C3,
    2: 0x1249249249249249,
}


class Coarse(NamedTuple):
    """A lattice of twice the spacing, and how its voxels and those of the fine lattice belong together.

    coordinates (W, 3) and ptr (B + 1,) int64 describe the W coarse voxels in Morton order.  children (W, 8) int32 is
    the row of the fine voxel in each octant, or -1.  parent_table (V, 8) int32 is the row of the coarse voxel in the
    column of the octant that the fine voxel fills, and -1 in the other columns.  The octant of a voxel is
    4 (x & 1) + 2 (y & 1) + (z & 1).
    """

    coordinates: Tensor
    ptr: Tensor
    children: Tensor
    parent_table: Tensor


def voxel_order(coordinates: Tensor, ptr: Tensor) -> Tensor:
    """Find the permutation (V,) int64 that sorts the voxels of each event along the Morton curve.

    The rows of an event stay between those of the events before and after it.  The order stays sorted if all
    coordinates are halved (rounded down), up to 16 times.  Raises ValueError if an event extends over more than
    2^21 - 2^16 voxels along an axis.

    >>> voxel_order(torch.tensor([[1, 0, 0], [0, 0, 1], [-1, 0, 0]]), torch.tensor([0, 2, 3]))
    tensor([1, 0, 2])
    """
    _check(coordinates, ptr)
    coordinates = coordinates.long()
    event = segment_of_row(ptr, len(coordinates))
    lowest = coordinates.new_zeros(len(ptr) - 1, 3)
    lowest.scatter_reduce_(0, event[:, None].expand(-1, 3), coordinates, "amin", include_self=False)
    position = coordinates - (lowest >> _ALIGNED << _ALIGNED)[event]
    if len(position) and int(position.max()) >> _BITS:
        raise ValueError(
            "coordinates: expected events of at most 2^21 - 2^16 voxels along each axis; remove the outliers"
        )
    order = _morton_code(position).argsort()
    return order[event[order].argsort(stable=True)]


def voxel_neighbours(coordinates: Tensor, ptr: Tensor) -> Tensor:
    """Find the row of each voxel's 27 neighbours in the same event: (V, 27) int32, -1 where the lattice is empty.

    Column 9 (dx + 1) + 3 (dy + 1) + dz + 1 belongs to the voxel at offset (dx, dy, dz), so column 13 is the voxel
    itself, and the offsets of columns k and 26 - k are opposite.  The rows may have any order.  On a CPU two
    voxels of an event with the same coordinates are an error; on a GPU, where the check would wait for the device, any
    one of them is found.  The table is stored by columns, as `sparse_conv` reads it.

    >>> voxel_neighbours(torch.tensor([[0, 0, 0], [0, 0, 1]]), torch.tensor([0, 2]))[:, 12:15]
    tensor([[-1,  0,  1],
            [ 0,  1, -1]], dtype=torch.int32)
    """
    _check(coordinates, ptr)
    return torch.ops.puffin.voxel_neighbours(coordinates.long(), ptr)


def coarsen(coordinates: Tensor, ptr: Tensor) -> Coarse:
    """Halve the coordinates (rounded down), and merge the voxels of each event that then coincide.

    The rows must have the order of `voxel_order`, in which the voxels to merge follow each other.  In another order
    some coarse voxels appear several times, and `voxel_neighbours` of them raises an error.

    >>> coarse = coarsen(torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 2]]), torch.tensor([0, 3]))
    >>> coarse.coordinates
    tensor([[0, 0, 0],
            [0, 0, 1]])
    >>> coarse.children[:, :2]
    tensor([[ 0,  1],
            [ 2, -1]], dtype=torch.int32)
    """
    _check(coordinates, ptr)
    coordinates = coordinates.long()
    first, parent, coarse_ptr = merge_voxels(coordinates >> 1, ptr)
    rows = torch.arange(len(coordinates), device=coordinates.device)
    octant = ((coordinates & 1) * coordinates.new_tensor([4, 2, 1])).sum(1)
    # stored by columns, as sparse_conv reads them
    children = torch.full((8, len(first)), -1, dtype=torch.int32, device=coordinates.device)
    children[octant, parent] = rows.int()
    parent_table = torch.full((8, len(coordinates)), -1, dtype=torch.int32, device=coordinates.device)
    parent_table[octant, rows] = parent.int()
    return Coarse(coordinates[first] >> 1, coarse_ptr, children.t(), parent_table.t())


def merge_voxels(coordinates: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find equal coordinates (V, 3) of an event that follow each other; each run of them becomes one of W voxels.

    Returns the first row of each run (W,), the run of each row (V,), and the first run of each event (B + 1,), int64.

    >>> merge_voxels(torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 1]]), torch.tensor([0, 3]))
    (tensor([0, 2]), tensor([0, 0, 1]), tensor([0, 2]))
    """
    event = segment_of_row(ptr, len(coordinates))
    is_first = torch.ones_like(event, dtype=torch.bool)
    is_first[1:] = (coordinates[1:] != coordinates[:-1]).any(1) | (event[1:] != event[:-1])
    runs = is_first.cumsum(0)
    return is_first.nonzero()[:, 0], runs - 1, torch.cat([runs.new_zeros(1), runs])[ptr]


def _check(coordinates: Tensor, ptr: Tensor) -> None:
    if coordinates.dim() != 2 or coordinates.shape[1] != 3 or coordinates.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"coordinates: expected (V, 3) int64 or int32, got {tuple(coordinates.shape)} {coordinates.dtype}"
        )
    check_ptr(coordinates, ptr)


def _morton_code(position: Tensor) -> Tensor:
    """Interleave the bits of positions (V, 3) from 0 to 2^21 - 1: (V,)."""
    for shift, mask in _SPREAD.items():
        position = (position | position << shift) & mask
    return position[:, 0] << 2 | position[:, 1] << 1 | position[:, 2]


# -- operators: oracles, shapes ----------------------------------------------------------------------------------------


def _find(wanted: Tensor, sorted_values: Tensor) -> Tensor:
    """Return where each number is among the sorted values, or -1."""
    position = torch.searchsorted(sorted_values, wanted).clamp_max(len(sorted_values) - 1)
    return torch.where(sorted_values[position] == wanted, position, -1)


def _neighbours_oracle(coordinates, ptr):
    """Search axis by axis: numbers of (event, x), then of those and y, then of those and z."""
    if len(coordinates) == 0:
        return torch.empty(27, 0, dtype=torch.int32, device=coordinates.device).t()
    event = number = segment_of_row(ptr, len(coordinates))
    axes = []
    for axis in coordinates.unbind(1):
        values, rank = torch.unique(axis, return_inverse=True)
        keys, number = torch.unique(number * len(values) + rank, return_inverse=True)
        axes.append((axis, values, keys))
    if len(keys) < len(coordinates):
        raise ValueError("coordinates: expected different voxels in each event, got a voxel twice; merge them first")
    found = [event]
    for axis, values, keys in axes:
        ranks = [_find(axis + step, values) for step in (-1, 0, 1)]
        found = [_find(torch.where((a < 0) | (b < 0), -1, a * len(values) + b), keys) for a in found for b in ranks]
    row_of_number = torch.empty_like(number).scatter_(0, number, torch.arange(len(number), device=number.device))
    return torch.stack([torch.where(n < 0, -1, row_of_number[n]) for n in found]).int().t()


def _neighbours_fake(coordinates, ptr):
    return coordinates.new_empty(27, coordinates.shape[0], dtype=torch.int32).t()


library.define(NEIGHBOURS, _neighbours_oracle, _neighbours_fake)
