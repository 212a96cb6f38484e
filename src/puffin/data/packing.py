"""Batches without padding: the rows of all events one after another, and the number of rows of each event."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

_ON_CPU = ("lengths", "index", "row")


class _Batch:
    """Methods of every batch; a subclass is a frozen dataclass of tensors (`lengths` among them), None and numbers."""

    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Self:
        """Move the batch to a device, except for the tensors that stay on the CPU; convert floats to dtype if given."""
        return self._changed(lambda x: x.to(device, dtype if x.is_floating_point() else None, non_blocking=True))

    def pin_memory(self) -> Self:
        """Copy the batch to page-locked memory (called by the data loader)."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {name: x for name, x in vars(self).items() if isinstance(x, Tensor) and name not in _ON_CPU}
        return replace(self, **{name: change(x) for name, x in tensors.items()})


@dataclass(frozen=True)
class JetBatch(_Batch):
    """B jets with N particles in all.

    fourmomenta (N, 4): E, px, py, pz [GeV]; lengths (B,) int64, always on the CPU: particles of each jet; target
    (B, ...) or None: classes, in training also probabilities of the classes, or momenta; scalars (N, S): features of
    the particles, or None; index (B,) int64: numbers of the jets in their data set; weights (B,): event weights, or
    None; observables (B, F): hand-made numbers of the jets (jet_observables.py), or None.
    """

    fourmomenta: Tensor
    lengths: Tensor
    target: Tensor | None = None
    scalars: Tensor | None = None
    index: Tensor | None = None
    weights: Tensor | None = None
    observables: Tensor | None = None

    def part(self, start: int, stop: int) -> "JetBatch":
        """Return jets start to stop - 1; they share memory with this batch."""
        first = int(self.lengths[:start].sum())
        last = len(self.fourmomenta) if stop >= len(self) else first + int(self.lengths[start:stop].sum())
        cut = {"fourmomenta": slice(first, last), "scalars": slice(first, last)}
        return JetBatch(**{k: None if x is None else x[cut.get(k, slice(start, stop))] for k, x in vars(self).items()})

    def followed_by(self, other: "JetBatch") -> "JetBatch":
        """Return the jets of this batch, then those of the other one."""
        if not len(self):
            return other
        first, second = vars(self), vars(other)
        return JetBatch(**{k: None if first[k] is None else torch.cat([first[k], second[k]]) for k in first})


@dataclass(frozen=True)
class CloudBatch(_Batch):
    """B events with P points in all.

    points (P, 4) float32: x, y, z and energy, scaled; lengths (B,) int64, always on the CPU: points of each event;
    semantic: class of each point (P,) int64, or in training class probabilities (P, C) float; row (P,) int64 or None,
    always on the CPU: numbers of the points within their events in the file; index (B,) int64: numbers of the events in
    their data set; skipped: number of requested events that are missing because they are bad.
    """

    points: Tensor
    lengths: Tensor
    semantic: Tensor | None = None
    row: Tensor | None = None
    index: Tensor | None = None
    skipped: int = 0


def rows_of_events(first: Tensor, lengths: Tensor) -> Tensor:
    """Row numbers of events in packed rows, (sum of lengths,) int64.

    Event k has the rows first[k] to first[k] + lengths[k] - 1; first, lengths (B,) int64."""
    behind = lengths.cumsum(0)
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(first - behind + lengths, lengths)


def pack_padded(
    fourmomenta: Tensor, valid: Tensor, scalars: Tensor | None = None, target: Tensor | None = None
) -> JetBatch:
    """Pack padded jets: fourmomenta (B, M, 4), valid (B, M) bool, scalars (B, M, S), target (B, ...)."""
    return JetBatch(
        fourmomenta[valid],
        valid.sum(1).cpu(),
        target,
        None if scalars is None else scalars[valid],
        torch.arange(len(valid)),
    )
