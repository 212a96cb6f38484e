"""Requests to stop: SIGINT and SIGTERM are noted, and training stops after the step."""

import logging
import signal

from puffin.training import distributed

log = logging.getLogger("puffin")


class StopRequests:
    """A context in which the first signal is noted; without torchrun a second one raises KeyboardInterrupt at once."""

    def __init__(self):
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

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

    def _note(self, signum: int, frame) -> None:
        alone = distributed.num_ranks() == 1
        if self.signum is not None:
            if alone:
                raise KeyboardInterrupt
            return  # torchrun repeats the signals that a terminal or a batch system has sent already
        self.signum = signum
        name = signal.Signals(signum).name
        log.warning(f"{name}: saving after this step{' (again to stop at once)' if alone else ''}")
