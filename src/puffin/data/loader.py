"""Load packed batches, in the main process or in worker processes."""

import atexit
import functools
import multiprocessing
import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from puffin.data.sampler import EpochBatches
from puffin.errors import InputError


def make_loader(
    dataset: Dataset, batches: EpochBatches, num_workers: int, pin_memory: bool
) -> "BatchLoader | StreamLoader":
    """Make a loader of packed batches in the order of `batches`, the same for any number of workers.

    The data set's `__getitems__` returns whole batches. The loader has a random generator of its own, so starting an
    epoch does not change the random numbers of the training."""
    if batches.chunk_of is not None:
        return StreamLoader(dataset, batches, num_workers, pin_memory)
    return BatchLoader(dataset, batches, num_workers, pin_memory)


class BatchLoader:
    """Yield whole batches; a worker reads one batch at a time."""

    def __init__(self, dataset: Dataset, batches: EpochBatches, num_workers: int, pin_memory: bool):
        self._batches = _data_loader(_Reader(dataset), batches, num_workers, pin_memory)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator:
        return map(_checked, self._batches)


class StreamLoader:
    """Yield batches cut from groups of events that are read together (see EpochBatches).

    A worker reads a whole group, so each chunk of a file is read and decompressed once per epoch; cutting is cheap.
    Memory holds two groups per worker, or one group without workers."""

    def __init__(self, dataset: Dataset, batches: EpochBatches, num_workers: int, pin_memory: bool):
        self.batches, self._empty = batches, dataset.__getitems__([])
        self._groups = _data_loader(_Reader(dataset), _Groups(batches), num_workers, pin_memory)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator:
        groups, waiting = iter(self._groups), self._empty
        for size in self.batches.sizes():
            while len(waiting) < size:
                waiting = waiting.followed_by(_checked(next(groups)))
            yield waiting.part(0, size)
            waiting = waiting.part(size, len(waiting))


class _Groups(Sampler[list[int]]):
    """Sample the groups of an epoch."""

    def __init__(self, batches: EpochBatches):
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches.groups()


class _Reader(Dataset):
    """A data set that returns an InputError instead of raising it: a worker would wrap it in a traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitems__(self, numbers: list[int]):
        try:
            return self.dataset.__getitems__(numbers)
        except InputError as error:
            return error


def _checked(batch):
    if isinstance(batch, InputError):
        raise batch
    return batch


def _data_loader(dataset: Dataset, batches: Sampler, num_workers: int, pin_memory: bool) -> DataLoader:
    if num_workers:
        _kill_workers_at_exit()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_identity,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_ignore_signals,
    )


def _ignore_signals(worker: int) -> None:
    # a terminal or a batch system signals all processes, but the parent needs its workers until it has saved
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, signal.SIG_IGN)


@functools.cache
def _kill_workers_at_exit() -> None:
    # at exit Python sends the workers SIGTERM, which they ignore, and would wait for them forever
    atexit.register(lambda: [p.kill() for p in multiprocessing.active_children() if p.daemon])


def _identity(batch):
    return batch
