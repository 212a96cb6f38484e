"""Masked modelling of point clouds: pretraining of Point-MAE, PoLAr-MAE and a U-Net on voxels."""

import torch
from torch import Tensor

from puffin.data.packing import CloudBatch
from puffin.layers.all_reduce import all_reduce_sum
from puffin.layers.blocks import Blocks
from puffin.layers.grouping import Tokens
from puffin.layers.packed import event_of_row
from puffin.losses.clouds import mean_of
from puffin.models.point_mae import MaskedAutoencoder, random_mask
from puffin.tasks.pretraining import Pretraining, generators
from puffin.training.task import StepOutput

FAINT, DROPPED = "events skipped with fewer than two tokens or blocks", "tokens beyond --context dropped"


class MaskedModelling(Pretraining):
    """Predict the masked tokens, or blocks of voxels, of events; training events are masked anew every time."""

    model: MaskedAutoencoder
    no_items = "no event has two tokens or blocks, one to mask and one to predict it from"
    counted = (FAINT, DROPPED)

    def step(self, batch: CloudBatch) -> StepOutput:
        """Loss over what is masked, in training over that of all processes.

        Outputs, in evaluation only, with one row per event: index, and the columns of `by_event` of the network."""
        model = self.model
        batch = self.prepared(batch)
        parts = self._parts(batch)
        if model.training:
            masked = random_mask(parts.lengths, model.config.mask_ratio)
        else:
            masked = fixed_mask(parts.lengths, model.config.mask_ratio, self.seed, batch.index)
        result = model.reconstruct(parts, masked)
        # the terms are means over different things, such as tokens and points: one weight per process would not do
        loss = sum(mean_of(all_reduce_sum(sums) if model.training else sums) for sums in result.sums().values())
        outputs = {}
        if not model.training:
            outputs = {"index": batch.index} | {name: column.cpu() for name, column in result.by_event().items()}
        return StepOutput(loss, int(masked.sum()), outputs)

    def _parts(self, batch: CloudBatch) -> Tokens | Blocks:
        """Return the parts of events that have at least two: one to mask, and one to predict it from."""
        parts = self.model.parts(batch.points, batch.lengths)
        faint = parts.lengths < 2
        self.counts[FAINT] += int(faint.sum())
        self.counts[DROPPED] += int(parts.dropped.sum())
        return parts.select(~faint[event_of_row(parts.lengths)]) if faint.any() else parts


def fixed_mask(lengths: Tensor, ratio: float, seed: int, index: Tensor) -> Tensor:
    """Draw a mask (T,) for each event from the seed and its number alone: index, lengths (B,) int64 on the CPU."""
    parts = [random_mask(lengths[k : k + 1], ratio, generator) for k, generator in enumerate(generators(seed, index))]
    return torch.cat([torch.zeros(0, dtype=torch.bool), *parts])
