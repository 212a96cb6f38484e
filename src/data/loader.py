"""Batches in the background."""

import signal

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
        worker_init_fn=_leave_signals_to_the_parent,
    )


def _leave_signals_to_the_parent(worker: int) -> None:
    # a terminal or a batch system signals all processes; the parent needs its workers until it has saved
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, signal.SIG_IGN)


def _as_it_is(batch):
    return batch
