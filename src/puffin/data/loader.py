"""Load packed batches, in the main process or in worker processes."""

from collections.abc import Iterable, Iterator

from puffin.data.sampler import EpochBatches
from puffin.data.workers import WorkerPool


def make_loader(dataset, batches: EpochBatches, num_workers: int, pin_memory: bool) -> "BatchLoader | StreamLoader":
    """Make a loader of packed batches in the order of `batches`, the same for any number of workers.

    The data set's `__getitems__` returns whole batches. Loading draws no random numbers, so it does not change those of
    the training. pin_memory: copy the batches to page-locked memory, from which a GPU reads faster."""
    if batches.chunk_of is not None:
        return StreamLoader(dataset, batches, num_workers, pin_memory)
    return BatchLoader(dataset, batches, num_workers, pin_memory)


class BatchLoader:
    """Yield whole batches; a worker reads one batch at a time."""

    def __init__(self, dataset, batches: EpochBatches, num_workers: int, pin_memory: bool):
        self.batches, self._pin = batches, pin_memory
        self._reader = WorkerPool(dataset, num_workers) if num_workers else _MainProcess(dataset)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def num_events(self) -> int:
        """Number of events of this process in the next iteration."""
        return sum(self.batches.sizes())

    def __iter__(self) -> Iterator:
        for batch in self._read():
            yield batch.pin_memory() if self._pin else batch

    def _read(self) -> Iterator:
        return self._reader.read(self.batches)

    def close(self) -> None:
        """End the workers, if there are any; another iteration starts new ones."""
        self._reader.close()


class StreamLoader(BatchLoader):
    """Yield batches cut from groups of events that are read together (see EpochBatches).

    A worker reads a whole group, so each chunk of a file is read and decompressed once per epoch; cutting is cheap.
    Memory holds one group per worker, and the one from which batches are cut."""

    def __init__(self, dataset, batches: EpochBatches, num_workers: int, pin_memory: bool):
        super().__init__(dataset, batches, num_workers, pin_memory)
        self._empty = dataset.__getitems__([])

    def _read(self) -> Iterator:
        groups, waiting = self._reader.read(self.batches.groups()), self._empty
        for size in self.batches.sizes():
            while len(waiting) < size:
                waiting = waiting.followed_by(next(groups))
            yield waiting.part(0, size)
            waiting = waiting.part(size, len(waiting))


class _MainProcess:
    """Reads like a WorkerPool, but in this process."""

    def __init__(self, dataset):
        self._dataset = dataset

    def read(self, requests: Iterable[list[int]]) -> Iterator:
        """Yield the batch of each request, in order."""
        return map(self._dataset.__getitems__, requests)

    def close(self) -> None:
        """Do nothing: there are no workers."""
