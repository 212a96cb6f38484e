"""What the data sets of jets and of point clouds share: events of several files, and seeded subsets of them."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from puffin.errors import InputError

log = logging.getLogger("puffin")


class EventDataset(Dataset):
    """Events of several files, in file order; `dataset[[3, 1]]` is a packed batch of two events, `dataset[3]` of one.

    A subclass sets `events` (n,) int64, the rows of the selected events, counted through all files. It also has
    `__getitems__`, which makes a batch from a list of event numbers, and `open_file`, which opens a file for reading.
    Files stay open; each process opens its own."""

    events: Tensor

    def __init__(self, files: Sequence[str | Path], selection):
        if not files:
            raise InputError("no data files: the list of files is empty. Check --datadir.")
        self.files, self.selection = [Path(f) for f in files], selection
        self._handles: dict[int, object] = {}

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, numbers: int | Sequence[int]):
        return self.__getitems__(list(numbers) if isinstance(numbers, Sequence) else [numbers])

    def batches(self, size: int) -> Iterator:
        """Yield all events in their order, as batches of `size` events; the last one may be smaller."""
        for first in range(0, len(self), size):
            yield self.__getitems__(list(range(first, min(first + size, len(self)))))

    def __getstate__(self):
        return {**self.__dict__, "_handles": {}}  # open files cannot be sent to a worker process

    def restrict(self, events: Tensor) -> None:
        """Keep only these events (numbers within the current selection)."""
        self.events = self.events[events]

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        for file in self._handles.values():
            file.close()
        self._handles.clear()

    def _opened(self, f: int):
        """Return file number f, and open it if necessary."""
        if f not in self._handles:
            self._handles[f] = self.open_file(self.files[f])
        return self._handles[f]


def choose_events(labels: Tensor | None, available: int, wanted: int, seed: int, name: str) -> Tensor:
    """Choose `wanted` of `available` events (-1: all) by the seed; returns their numbers, sorted.

    labels (available,) or None: if they are binary, half of the chosen events come from each class, as far as possible.
    If fewer events are available than wanted, all are taken, with a warning that names the split."""
    if wanted < 0 or wanted >= available:
        if wanted > available:
            log.warning(f"{name}: {wanted} events requested, but only {available} available; using all")
        return torch.arange(available)
    generator = torch.Generator().manual_seed(seed % 2**63)
    order = torch.randperm(available, generator=generator)
    if labels is not None and labels.dim() == 1 and set(labels.unique().tolist()) == {0, 1}:
        signal, background = order[labels[order] == 1], order[labels[order] == 0]
        num_signal = min(max(wanted // 2, wanted - len(background)), len(signal))
        order = torch.cat([signal[:num_signal], background[: wanted - num_signal]])
    return order[:wanted].sort().values
