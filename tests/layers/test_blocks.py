"""Blocks of voxels: which points each holds, and a selection of them."""

import pytest
import torch

from puffin.layers.blocks import split_into_blocks
from puffin.layers.voxels import voxel_coordinates
from tests.models.test_unet import walks


def events_of(blocks) -> list[set]:
    """The points of each event, as rows of numbers."""
    return [set(map(tuple, points.tolist())) for points in blocks.points.split(blocks.point_lengths.tolist())]


@pytest.mark.parametrize("level", [0, 1, 3])
def test_a_block_holds_the_points_of_one_cube(level):
    """Against a set of cubes. Breaks if a cube is split into two blocks, or points of two events share a block."""
    points, lengths = walks([200, 0, 90])
    blocks = split_into_blocks(points, lengths, level)
    cubes = [
        {tuple(row) for row in (voxel_coordinates(event) >> level).tolist()} for event in points.split(lengths.tolist())
    ]
    assert blocks.lengths.tolist() == [len(event) for event in cubes] and blocks.point_lengths.equal(lengths)
    of_block = [voxel_coordinates(p) >> level for p in blocks.points.split(blocks.counts.tolist())]
    assert all((cube == cube[0]).all() for cube in of_block) and blocks.counts.min() > 0
    assert events_of(blocks) == [set(map(tuple, event.tolist())) for event in points.split(lengths.tolist())]


def test_selected_and_other_blocks_are_all():
    """Breaks if a selection keeps other points than those of its blocks, or counts them in another event."""
    blocks = split_into_blocks(*walks([150, 60, 1]), 2)
    chosen = torch.rand(len(blocks)) < 0.5
    some, others = blocks.select(chosen), blocks.select(~chosen)
    assert len(some) == chosen.sum() and 0 < len(some.points) < 211
    for whole, a, b in zip(events_of(blocks), events_of(some), events_of(others), strict=True):
        assert a | b == whole and not a & b
    assert torch.equal(some.lengths + others.lengths, blocks.lengths)


def test_no_points():
    blocks = split_into_blocks(torch.zeros(0, 4), torch.tensor([0, 0]), 3)
    assert len(blocks) == 0 and blocks.lengths.tolist() == blocks.point_lengths.tolist() == [0, 0]
