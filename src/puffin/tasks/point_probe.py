"""The linear probe of a U-Net on voxels, whose samples are points."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.data.packing import CloudBatch
from puffin.layers.packed import random_order, rank_in_event, to_device
from puffin.models.unet import VoxelFeatures
from puffin.tasks.probe import Labelled, Probe

_PER_EVENT = 200  # points; more of them would come from fewer events


@dataclass(frozen=True)
class PointSample:
    """Points (P, 4) of B events, their lengths (B,), and the rows (N,) int64 of those that are classified."""

    points: Tensor
    lengths: Tensor
    rows: Tensor


class PointProbe(Probe):
    """The linear probe of the features of points: which of them are of a class.

    At most 200 random points of each event are classified, from the features that a segmentation would start from."""

    item, having = "point", "is of class {}"

    def choose(self, model: VoxelFeatures, batch: CloudBatch, generator: torch.Generator) -> Labelled:
        """Choose random points of each event."""
        chosen = random_order(batch.lengths, generator)[rank_in_event(batch.lengths) < _PER_EVENT]
        rows = to_device(chosen, batch.points.device)
        number = len(self.names)
        classes = batch.semantic[rows].clamp_max(number)  # low-energy deposits without a class of their own
        labels = F.one_hot(classes, number + 1)[:, :number].bool()
        return Labelled(PointSample(batch.points, batch.lengths, rows), labels.cpu().numpy())

    def features(self, model: VoxelFeatures, samples: PointSample) -> Tensor:
        """Compute the features of points that a head would get: (N, width)."""
        return model.features(samples.points, samples.lengths)[samples.rows]
