"""Learning-rate schedules: pure functions of the step, written by hand.

The rate of a step depends on nothing but its number, so a resumed run needs no scheduler state.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from puffin.settings.common import DECAYS as NAMES

WARM_FIRST_PERIOD = 4  # epochs of the first cosine of `warm`; each further one is twice as long


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from lr_start, a decay by `kind`, then an exponential cool-down to lr_final.

    All lengths in steps.  period: first period of `warm`.  Warm-up and cool-down that together are longer than the
    run are shortened in proportion.
    """

    kind: str
    lr_init: float
    lr_final: float
    num_steps: int
    warmup: int = 0
    cooldown: int = 0
    period: int = 1
    lr_start: float = 0.0

    def __post_init__(self):
        if self.kind not in DECAYS:
            raise ValueError(f"lr_decay_type: expected one of {', '.join(DECAYS)}, got {self.kind!r}")
        if not self.lr_init >= self.lr_final > 0:
            raise ValueError(
                f"learning rates: expected lr_init >= lr_final > 0, got {self.lr_init} and {self.lr_final}"
            )

        if not 0 <= self.lr_start <= self.lr_init:
            raise ValueError(
                f"learning rates: expected 0 <= lr_start <= lr_init, got {self.lr_start} and {self.lr_init}"
            )

    def lengths(self) -> tuple[int, int, int]:
        """Steps of warm-up, decay and cool-down."""
        ramps = self.warmup + self.cooldown
        shrink = min(1.0, self.num_steps / ramps) if ramps else 1.0
        warmup, cooldown = int(self.warmup * shrink), int(self.cooldown * shrink)
        return warmup, max(self.num_steps - warmup - cooldown, 0), cooldown

    def __call__(self, step: int) -> float:
        """Learning rate of the step `step` (from 0)."""
        warmup, decay, cooldown = self.lengths()
        if step < warmup:
            return self.lr_start + (self.lr_init - self.lr_start) * (step + 1) / warmup
        if step < warmup + decay:
            return DECAYS[self.kind](self, step - warmup, decay)
        start = DECAYS[self.kind](self, decay, decay) if decay else self.lr_init
        done = min((step - warmup - decay + 1) / cooldown, 1.0) if cooldown else 1.0
        return start * (self.lr_final / start) ** done


def _cosine(high: float, low: float, fraction: float) -> float:
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * fraction))


def _cos(s: Schedule, step: int, length: int) -> float:
    return _cosine(s.lr_init, s.lr_final, step / length)


def _warm(s: Schedule, step: int, length: int) -> float:
    start, period = 0, s.period
    while step >= start + period and start + period < length:
        start, period = start + period, 2 * period
    return _cosine(s.lr_init, s.lr_final, min((step - start) / period, 1.0))


def _exp(s: Schedule, step: int, length: int) -> float:
    return s.lr_init * (s.lr_final / s.lr_init) ** (step / length)


def _flat(s: Schedule, step: int, length: int) -> float:
    return s.lr_init


def _one(s: Schedule, step: int, length: int) -> float:
    rise = 0.3 * length  # the one-cycle policy: up from a 25th during the first 30%, then down
    if step < rise:
        return _cosine(s.lr_init / 25, s.lr_init, step / rise)
    return _cosine(s.lr_init, s.lr_final, (step - rise) / (length - rise))


DECAYS: dict[str, Callable[[Schedule, int, int], float]] = {
    "cos": _cos,
    "warm": _warm,
    "exp": _exp,
    "flat": _flat,
    "one": _one,
}
assert tuple(DECAYS) == NAMES  # which are the choices of --lr-decay-type
