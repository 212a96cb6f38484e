"""Packed batches."""

import torch

from puffin.data.packing import CloudBatch, JetBatch, rows_of_events


def test_lengths_and_index_stay():
    """On a device that is not the CPU, in another precision.

    Breaks if a tensor is not moved, if labels become floats, or if lengths move, which slows down every step."""
    batch = JetBatch(
        torch.ones(3, 4),
        torch.tensor([1, 2]),
        torch.tensor([0, 1]),
        torch.ones(3, 2),
        torch.tensor([7, 8]),
        torch.ones(2),
        torch.ones(2, 5),
    )
    moved = batch.to(torch.device("meta"), torch.bfloat16)
    places = {name: (x.device.type, x.dtype) for name, x in vars(moved).items()}
    half, whole = ("meta", torch.bfloat16), ("cpu", torch.int64)
    assert places == {
        "fourmomenta": half,
        "lengths": whole,
        "target": ("meta", torch.int64),
        "scalars": half,
        "index": whole,
        "weights": half,
        "observables": half,
    }
    assert type(moved) is JetBatch and len(moved) == 2 and batch.fourmomenta.device.type == "cpu"
    bare = JetBatch(torch.ones(1, 4), torch.tensor([1])).to(torch.device("meta"))
    assert bare.target is bare.scalars is None
    cloud = CloudBatch(torch.ones(1, 4), torch.tensor([1]), torch.tensor([2]), row=torch.tensor([5])).to(
        torch.device("meta")
    )
    assert (cloud.semantic.device.type, cloud.row.device.type, cloud.skipped) == ("meta", "cpu", 0)


def test_rows_of_events():
    """In any order, twice, without rows, or none at all."""
    first, lengths = torch.tensor([5, 0, 9, 5]), torch.tensor([2, 3, 0, 2])
    assert rows_of_events(first, lengths).tolist() == [5, 6, 0, 1, 2, 5, 6]
    assert rows_of_events(first[:0], lengths[:0]).tolist() == []
