"""Requests to stop: SIGINT and SIGTERM are noted, and training stops after the step, or while it waits for data."""

import contextlib
import logging
import signal
from collections.abc import Iterable, Iterator

from puffin.training import distributed

log = logging.getLogger("puffin")


class StoppedWaiting(Exception):
    """A signal came while the process waited for data."""


class StopRequests:
    """A context in which the first signal is noted; without torchrun a second one raises KeyboardInterrupt at once."""

    def __init__(self):
        self.signum: int | None = None
        self._previous: dict[int, object] = {}
        self._waiting = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None

    def __enter__(self) -> "StopRequests":
        self.signum = None
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def awaited(self, items: Iterable) -> Iterator:
        """Yield the items; StoppedWaiting if a signal comes before the next one has arrived.

        Several processes must stop together, after a step that they make together: there a signal is only noted."""
        items = iter(items)
        while True:
            with self._wait():
                item = next(items, items)  # the iterator itself marks its end
            if item is items:
                return
            yield item

    @contextlib.contextmanager
    def _wait(self) -> Iterator[None]:
        self._waiting = True
        try:
            self._check()  # a signal may have come just before
            yield
        finally:
            self._waiting = False

    def _check(self) -> None:
        if self._waiting and self.requested and distributed.num_ranks() == 1:
            raise StoppedWaiting

    def _note(self, signum: int, frame) -> None:
        alone = distributed.num_ranks() == 1
        if self.signum is not None:
            if alone:
                raise KeyboardInterrupt
            return  # torchrun repeats the signals that a terminal or a batch system has sent already
        self.signum = signum
        name, when = signal.Signals(signum).name, "now" if self._waiting and alone else "after this step"
        log.warning(f"{name}: saving {when}{' (again to stop at once)' if alone else ''}")
        self._check()
