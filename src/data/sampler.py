"""The order of events: seeded, resumable, divided among ranks."""

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[int]]):
    """Batches of event numbers for one epoch, the same for the same (seed, epoch) whatever the number of workers.

    Rank r of R takes every R-th batch entry, so that R ranks with batches of b see the events that one process with
    batches of R b sees.  `start(epoch, batch)` chooses where the next iteration begins.
    """

    def __init__(self, num_events: int, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0, num_ranks: int = 1):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.num_events, self.batch_size, self.shuffle, self.seed = num_events, batch_size, shuffle, seed
        self.rank, self.num_ranks = rank, num_ranks
        self.epoch, self.first_batch = 0, 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch; the last one may be smaller."""
        return math.ceil(self.num_events / (self.batch_size * self.num_ranks))

    def start(self, epoch: int, batch: int = 0) -> None:
        """Begin the next iteration at `batch` of `epoch`."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        return self.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
            order = torch.randperm(self.num_events, generator=generator).tolist()
        else:
            order = list(range(self.num_events))
        whole = self.batch_size * self.num_ranks
        for b in range(self.first_batch, self.batches_per_epoch):
            yield order[b * whole : (b + 1) * whole][self.rank :: self.num_ranks]
