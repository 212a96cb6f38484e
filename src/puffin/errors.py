"""Errors that the user can correct; scripts print them as one line and exit with a non-zero status."""

import difflib
import signal
from collections.abc import Callable, Iterable
from pathlib import Path


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, shortened to 200 characters."""
    return (str(error).splitlines() or [""])[0][:200]


class InputError(Exception):
    """Bad flags, files or data. The message says what is wrong, where, and what to do."""


class DiskFull(InputError):
    """A file could not be written, because its disk is full."""


class NonFiniteError(RuntimeError):
    """The loss or its gradient became infinite or nan; no update was made."""


class Interrupted(Exception):
    """SIGTERM or SIGINT came, and the state was saved. `signum` is the signal."""

    def __init__(self, signum: int, saved: Path | None):
        self.signum = signum
        where = (
            f"state saved to {saved}; run the same command with --load to resume"
            if saved
            else "nothing saved (--no-save)"
        )
        super().__init__(f"stopped by {signal.Signals(signum).name}: {where}")


class MissingOutputs(Exception):
    """A run has finished, but some of its outputs could not be written. `history`: one row of numbers per epoch."""

    def __init__(self, failures: list[str], history: list[dict]):
        self.history = history
        number = plural(len(failures), "output")
        super().__init__(f"the run has finished, but {number} could not be written: {'; '.join(failures)}")


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: "1 picture", "2 pictures", "3 minibatches", "2 processes"."""
    ending = "es" if noun.endswith(("s", "ch", "sh", "x")) else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{ending}"


def nearest(name: str, known: Iterable[str], show: Callable[[str], str] = str) -> str:
    """Return the end of a message about an unknown name: " (did you mean dropout?)", or "" if none is similar."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {show(found[0])}?)" if found else ""
