"""The order of events in an epoch: seeded, resumable, divided among ranks."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

GROUP = 16384  # events that are shuffled together if the data are read in chunks


class EpochBatches(Sampler[list[int]]):
    """Yield batches of event numbers for one epoch, as a function of (seed, epoch) for any number of workers.

    Rank r of R takes events r, r + R, r + 2 R, ... of the order, so R ranks with batches of b events see the same
    events per step as one process with batches of R b. The last batch of an epoch may be smaller, and empty on some
    ranks.
    chunk_of (num_events,) or None: number of the file chunk that holds each event. If given, the chunks are shuffled
    and joined to groups of about GROUP events, and the events of each group are shuffled. So a group needs few chunks,
    and each chunk belongs to one group only.
    `start(epoch, batch)` sets where the next iteration begins.
    """

    def __init__(
        self,
        num_events: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        chunk_of: Tensor | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.num_events, self.batch_size, self.shuffle, self.seed = num_events, batch_size, shuffle, seed
        self.rank, self.num_ranks, self.chunk_of = rank, num_ranks, chunk_of
        self.epoch, self.first_batch = 0, 0

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of a whole epoch; the last one may be smaller."""
        return math.ceil(self.num_events / (self.batch_size * self.num_ranks))

    def start(self, epoch: int, batch: int = 0) -> None:
        """Begin the next iteration at `batch` of `epoch`."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        return self.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        events = self._order()[0][self.rank :: self.num_ranks]
        for b in range(self.first_batch, self.batches_per_epoch):
            yield events[b * self.batch_size : (b + 1) * self.batch_size].tolist()

    def sizes(self) -> list[int]:
        """Return the number of events of each remaining batch of this rank."""
        num_events = len(range(self.rank, self.num_events, self.num_ranks))
        starts = (b * self.batch_size for b in range(self.first_batch, self.batches_per_epoch))
        return [min(max(num_events - start, 0), self.batch_size) for start in starts]

    def groups(self) -> Iterator[list[int]]:
        """Yield the same events in the same order as the batches, but split where the groups end."""
        order, ends = self._order()
        events, start = order[self.rank :: self.num_ranks], self.first_batch * self.batch_size
        ends_of_rank = (ends - self.rank + self.num_ranks - 1) // self.num_ranks  # this rank's events before each end
        for end in ends_of_rank:
            if end > start:
                yield events[start:end].tolist()
                start = int(end)

    def _order(self) -> tuple[Tensor, Tensor]:
        """Return all events in the order of this epoch, (num_events,), and the positions where groups end."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.num_events, generator=generator) if self.shuffle else torch.arange(self.num_events)
        if self.chunk_of is None or not self.num_events:
            return order, torch.tensor([self.num_events])
        sizes = torch.bincount(self.chunk_of)
        chunks = torch.randperm(len(sizes), generator=generator) if self.shuffle else torch.arange(len(sizes))
        group_of_chunk = torch.empty_like(chunks)
        group_of_chunk[chunks] = (sizes[chunks].cumsum(0) - 1).clamp_min(0) // GROUP
        groups, position = group_of_chunk[self.chunk_of[order]].sort(stable=True)
        return order[position], torch.bincount(groups).cumsum(0)
