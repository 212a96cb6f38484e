"""Views of events: which points are in a crop, and which are hidden."""

import torch

from puffin.data.packing import CloudBatch
from puffin.data.views import crops_and_masked, rows_at
from puffin.layers.voxels import voxel_coordinates
from tests.layers.clouds import tracks


def test_crops_against_loops():
    """Breaks if a crop has points of another event, if the radius is in other units, or if the crops are permuted."""
    points, lengths = tracks([120, 0, 90])
    batch = CloudBatch(points, lengths, semantic=torch.arange(210))
    centres = rows_at(torch.tensor([[0.0, 0.5], [0.3, 0.7], [0.999, 0.1]]).double(), lengths)
    assert centres[[0, 2]].tolist() == [[0, 60], [209, 129]]
    hidden = torch.arange(210) % 3 == 0
    views = crops_and_masked(batch, centres, 9, hidden)
    voxels, event = voxel_coordinates(points).double(), lengths.tolist()
    expected, sizes = [], []
    for c in range(2):
        for first, size, rows in zip((0, 120, 120), event, centres.tolist(), strict=True):
            near = [r for r in range(first, first + size) if (voxels[r] - voxels[rows[c]]).norm() <= 9 + 1e-6]
            expected += near
            sizes.append(len(near))
    assert 0 < sizes[0] < 120 and sizes[1] == 0
    assert views.rows.tolist() == [*expected, *range(210)] and views.batch.lengths.tolist() == [*sizes, *event]
    assert torch.equal(views.batch.points, points[views.rows]) and torch.equal(views.batch.semantic, views.rows)
    assert not views.hidden[: len(expected)].any() and torch.equal(views.hidden[len(expected) :], hidden)


def test_no_crops_or_no_events():
    """The masked events remain; no events have no views."""
    points, lengths = tracks([20])
    none = torch.zeros(20, dtype=torch.bool)
    views = crops_and_masked(CloudBatch(points, lengths), rows_at(torch.rand(1, 0).double(), lengths), 9, none)
    assert views.rows.tolist() == list(range(20)) and views.batch.lengths.tolist() == [20]
    empty = CloudBatch(points[:0], lengths[:0])
    views = crops_and_masked(empty, rows_at(torch.rand(0, 2).double(), lengths[:0]), 9, none[:0])
    assert len(views.rows) == len(views.batch) == 0
