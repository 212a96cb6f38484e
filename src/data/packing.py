"""Batches without padding: events one after another, with the number of rows of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class JetBatch:
    """B jets with N particles in all.

    fourmomenta (N, 4) as E, px, py, pz [GeV]; lengths (B,) int64, always on the CPU: particles of each jet;
    target (B, ...) or None; scalars (N, S) per-particle features or None; index (B,) int64: the jets' places in their data set; weights (B,) of the events or None.
    """

    fourmomenta: Tensor
    lengths: Tensor
    target: Tensor | None = None
    scalars: Tensor | None = None
    index: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "JetBatch":
        """The batch on a device; floating-point features in `dtype` if given."""

        def move(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            return x.to(device, dtype if x.is_floating_point() else None, non_blocking=True)

        return replace(self, **{name: move(getattr(self, name)) for name in _ON_DEVICE})

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

    def pin_memory(self) -> "JetBatch":
        """The batch in page-locked memory (called by the data loader)."""
        pin = lambda x: None if x is None else x.pin_memory()  # noqa: E731
        return replace(self, **{name: pin(getattr(self, name)) for name in _ON_DEVICE})


_ON_DEVICE = ("fourmomenta", "target", "scalars", "weights")  # lengths and index stay on the CPU


@dataclass(frozen=True)
class CloudBatch:
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

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "CloudBatch":
        """The batch on a device; points in `dtype` if given."""
        return self._changed(lambda x: x.to(device, dtype if x.is_floating_point() else None, non_blocking=True))

    def pin_memory(self) -> "CloudBatch":
        """The batch in page-locked memory (called by the data loader)."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "CloudBatch":
        columns = {name: getattr(self, name) for name in ("points", "semantic", "fragment", "group", "interaction", "pid")}
        return replace(self, **{name: change(x) for name, x in columns.items() if x is not None})


def pack_padded(fourmomenta: Tensor, valid: Tensor, scalars: Tensor | None = None, target: Tensor | None = None) -> JetBatch:
    """Pack padded jets: fourmomenta (B, M, 4), valid (B, M) bool, scalars (B, M, S)."""
    return JetBatch(
        fourmomenta[valid], valid.sum(1).cpu(), target, None if scalars is None else scalars[valid], torch.arange(len(valid))
    )
