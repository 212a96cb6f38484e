"""Batches without padding: events one after another, with the number of rows of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

_ON_CPU = ("lengths", "index", "row")


class _Batch:
    """What batches of any events can do; a subclass is a frozen dataclass of tensors, `lengths` among them, or None."""

    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Self:
        """The batch on a device, but for what stays on the CPU; floating-point tensors in `dtype` if given."""
        return self._changed(lambda x: x.to(device, dtype if x.is_floating_point() else None, non_blocking=True))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory (called by the data loader)."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {name: x for name, x in vars(self).items() if isinstance(x, Tensor) and name not in _ON_CPU}
        return replace(self, **{name: change(x) for name, x in tensors.items()})


@dataclass(frozen=True)
class JetBatch(_Batch):
    """B jets with N particles in all.

    fourmomenta (N, 4) as E, px, py, pz [GeV]; lengths (B,) int64, always on the CPU: particles of each jet;
    target (B, ...) or None; scalars (N, S) per-particle features or None; index (B,) int64: the jets' places in their
    data set; weights (B,) of the events or None.
    """

    fourmomenta: Tensor
    lengths: Tensor
    target: Tensor | None = None
    scalars: Tensor | None = None
    index: Tensor | None = None
    weights: Tensor | None = None

    def part(self, start: int, stop: int) -> "JetBatch":
        """Jets start to stop - 1, sharing memory with this batch."""
        first, last = int(self.lengths[:start].sum()), int(self.lengths[:stop].sum())
        cut = {"fourmomenta": slice(first, last), "scalars": slice(first, last)}
        return JetBatch(**{k: None if x is None else x[cut.get(k, slice(start, stop))] for k, x in vars(self).items()})

    def followed_by(self, other: "JetBatch") -> "JetBatch":
        """The jets of this batch, then those of another one."""
        if not len(self):
            return other
        mine, others = vars(self), vars(other)
        return JetBatch(**{k: None if mine[k] is None else torch.cat([mine[k], others[k]]) for k in mine})


@dataclass(frozen=True)
class CloudBatch(_Batch):
    """B events with P points in all.

    points (P, 4) float32: x, y, z and energy, normalized; lengths (B,) int64, always on the CPU: points of each event;
    semantic, fragment, group, interaction (P,) int64: class and clusters of each point, numbered within its event
    (-1: low-energy deposits); pid (P,) int64 or None; row (P,) int64 or None, always on the CPU: the points' places in
    their events of the file; index (B,) int64: the events' places in their data set; skipped: events that were asked for
    and are bad.
    """

    points: Tensor
    lengths: Tensor
    semantic: Tensor | None = None
    fragment: Tensor | None = None
    group: Tensor | None = None
    interaction: Tensor | None = None
    pid: Tensor | None = None
    row: Tensor | None = None
    index: Tensor | None = None
    skipped: int = 0


def rows_of_events(first: Tensor, lengths: Tensor) -> Tensor:
    """Row numbers (sum of lengths,) of events in packed rows: those of event k are first[k], first[k] + 1, ..., lengths[k] in all."""
    behind = lengths.cumsum(0)
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(first - behind + lengths, lengths)


def pack_padded(
    fourmomenta: Tensor, valid: Tensor, scalars: Tensor | None = None, target: Tensor | None = None
) -> JetBatch:
    """Pack padded jets: fourmomenta (B, M, 4), valid (B, M) bool, scalars (B, M, S)."""
    return JetBatch(
        fourmomenta[valid],
        valid.sum(1).cpu(),
        target,
        None if scalars is None else scalars[valid],
        torch.arange(len(valid)),
    )
