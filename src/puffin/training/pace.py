"""How fast an evaluation goes, how long it will still take, and how much memory the process needs."""

import logging
import resource
import sys
import time
from types import TracebackType

import torch
from tqdm import tqdm

log = logging.getLogger("puffin")

SECONDS_BETWEEN_LINES = 60  # in a log; a terminal shows a bar instead


class Pace:
    """Show the progress of an evaluation: a bar in a terminal, otherwise a log line every minute.

    name: of the evaluation; total: number of events, None if it is not known; device: whose memory is reported.
    """

    def __init__(self, name: str, total: int | None, device: torch.device):
        self.name, self.total, self.device = name, total, device
        self.events = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=name, unit="event", disable=None, leave=False, dynamic_ncols=True)

    def __enter__(self) -> "Pace":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def add(self, events: int) -> None:
        """Count the events of a batch."""
        self.events += events
        self._bar.update(events)
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        self._bar.set_postfix_str(f"memory {_in_megabytes(peak_memory(self.device))}")
        if self._bar.disable:
            of_total, left = "", ""
            if self.total:
                of_total, left = f" of {self.total:,}", f", {self._minutes_left():.0f} min left"
            log.info(f"{self.name}: {self.events:,}{of_total} events, {self._measured()}{left}")

    def summary(self) -> str:
        """Return a line about the whole evaluation."""
        return f"evaluated {self.events:,} events ({self.name}) in {self._seconds():.1f} s, {self._measured()}"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)

    def _measured(self) -> str:
        return f"{self.events / self._seconds():.0f} events/s, peak memory {_in_megabytes(peak_memory(self.device))}"

    def _minutes_left(self) -> float:
        return (self.total - self.events) / max(self.events, 1) * self._seconds() / 60


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has used so far [bytes]: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _in_megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
