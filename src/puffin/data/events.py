"""Events of several files: what the data sets of jets and of point clouds share."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from puffin.errors import InputError

log = logging.getLogger("puffin")


class EventDataset(Dataset):
    """Events of several files, in file order; `dataset[list of numbers]` is a packed batch.

    events (n,) int64: which events of the files are in use, as rows counted through all files; set by the subclass.  A
    subclass also has `__getitems__`, and `open_file`, which opens a file to read from it; opened files stay open, in each
    process its own."""

    events: Tensor

    def __init__(self, files: Sequence[str | Path], selection):
        if not files:
            raise InputError("no data files given")
        self.files, self.selection = [Path(f) for f in files], selection
        self._handles: dict[int, object] = {}

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, number: int):
        return self.__getitems__([number])

    def __getstate__(self):
        return {**self.__dict__, "_handles": {}}  # each worker opens its own

    def restrict(self, events: Tensor) -> None:
        """Keep only these events (numbers within the current selection)."""
        self.events = self.events[events]

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        for file in self._handles.values():
            file.close()
        self._handles.clear()

    def _opened(self, f: int):
        """File number f, opened if it is not."""
        if f not in self._handles:
            self._handles[f] = self.open_file(self.files[f])
        return self._handles[f]


def choose_events(labels: Tensor | None, available: int, wanted: int, seed: int, name: str) -> Tensor:
    """Sorted numbers of a seeded subset of `wanted` events (-1: all), half of each class where labels are binary.

    Asking for more than there are takes all, with a warning."""
    if wanted < 0 or wanted >= available:
        if wanted > available:
            log.warning(f"{name}: {wanted} events asked for, {available} there; using all")
        return torch.arange(available)
    generator = torch.Generator().manual_seed(seed % 2**63)
    order = torch.randperm(available, generator=generator)
    if labels is not None and labels.dim() == 1 and set(labels.unique().tolist()) == {0, 1}:
        classes = [order[labels[order] == c] for c in (1, 0)]
        signal = min(max(wanted // 2, wanted - len(classes[1])), len(classes[0]))
        order = torch.cat([classes[0][:signal], classes[1][: wanted - signal]])
    return order[:wanted].sort().values
