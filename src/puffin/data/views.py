"""Views of events for self-distillation: crops around random points, and whole events of which blocks are hidden."""

from dataclasses import dataclass

import torch
from torch import Tensor

from puffin.data.augment import take_points
from puffin.data.packing import CloudBatch
from puffin.detector import PILARNET
from puffin.layers.packed import event_of_row, offsets, to_device


@dataclass(frozen=True)
class Views:
    """Parts of the events of a batch, each packed as an event of its own.

    batch: their N points.  On the CPU: rows (N,) int64, the row of each point in the batch of whole events; hidden (N,)
    bool: points of which only the position is to be seen.
    """

    batch: CloudBatch
    rows: Tensor
    hidden: Tensor


def crops_and_masked(batch: CloudBatch, centres: Tensor, radius: float, hidden: Tensor) -> Views:
    """Return the crops of all events, the first of each event before the second ones, and then the whole events.

    centres (B, C) int64: rows of points, C of each event; radius [voxels]: a crop has all points of the event within
    this distance of its centre; hidden (P,) bool: of the whole events. Both on the CPU. Waits for a GPU: the number of
    points of a crop decides the sizes of all that follows."""
    crop, rows = inside_crops(batch, centres, radius).cpu().nonzero().unbind(1)
    number = len(batch)
    lengths = (crop * number + event_of_row(batch.lengths)[rows]).bincount(minlength=centres.shape[1] * number)
    rows = torch.cat([rows, torch.arange(len(batch.points))])
    hidden = torch.cat([hidden.new_zeros(len(crop)), hidden])
    return Views(take_points(batch, rows, torch.cat([lengths, batch.lengths])), rows, hidden)


def inside_crops(batch: CloudBatch, centres: Tensor, radius: float) -> Tensor:
    """Return which points are in each crop of their event, (C, P) bool; see `crops_and_masked`."""
    points = batch.points[:, :3]
    centre = to_device(centres.T[:, event_of_row(batch.lengths)], points.device)
    distances = (points[centre] - points).square().sum(2)
    return distances <= (radius * PILARNET.voxel) ** 2


def rows_at(fractions: Tensor, lengths: Tensor) -> Tensor:
    """Return the row of a point of each event at each fraction of its points, (B, C) int64.

    fractions (B, C) float64, from 0 to below 1; lengths (B,) int64. The number for an event without points is no
    row."""
    return offsets(lengths)[:-1, None] + (fractions * lengths[:, None]).long()
