"""Batches in the background."""

import torch
from torch.utils.data import DataLoader, Dataset

from .sampler import EpochBatches


def make_loader(dataset: Dataset, batches: EpochBatches, num_workers: int, pin_memory: bool) -> DataLoader:
    """A loader of packed batches in the order of `batches`, the same for any number of workers.

    The dataset's `__getitems__` gives whole batches.  The loader draws from a generator of its own, so that starting
    an epoch leaves the training's random sequence untouched."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
    )


def _as_it_is(batch):
    return batch
