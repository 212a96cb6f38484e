"""Outputs whose failure must not end a run: pictures, tables, records of trackers, predictions."""

import contextlib
import logging
from collections.abc import Iterator

from puffin.errors import Interrupted, MissingOutputs, first_line

log = logging.getLogger("puffin")


class SideOutputs:
    """Notes which outputs could not be written; each kind is reported once."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """A context that writes an output; its failure becomes a warning. name: of the output, for messages.

        Signals and a lack of memory end the run as usual."""
        try:
            yield
        except (Interrupted, MemoryError):
            raise
        except Exception as error:  # whatever a library for pictures or tables may raise
            self.note(name, error)

    def note(self, name: str, error: Exception) -> None:
        """Note that an output could not be written, and why."""
        log.debug("traceback", exc_info=True)
        if name not in self.failures:
            self.failures[name] = first_line(error)
            log.warning(f"{name}: could not be written, the run goes on without it ({first_line(error)})")

    def check(self, history: list[dict]) -> None:
        """Raise MissingOutputs if any output could not be written. history: rows of the finished run."""
        if self.failures:
            raise MissingOutputs([f"{name} ({reason})" for name, reason in self.failures.items()], history)
