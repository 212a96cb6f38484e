"""Logging: coloured lines on the terminal, plain lines in the file."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import colorlog
from tqdm import tqdm

LEVELS = ("debug", "info", "warning", "error")
_prefix: ContextVar[str] = ContextVar("prefix", default="")  # of this thread's lines on the terminal


@contextlib.contextmanager
def line_prefix(text: str) -> Iterator[None]:
    """A context in which every line of this thread on the terminal begins with a text, such as "trial 3: ".

    Several workers share a terminal; log files belong to one training each, and stay as they are."""
    token = _prefix.set(text)
    try:
        yield
    finally:
        _prefix.reset(token)


def _add_prefix(record: logging.LogRecord) -> bool:
    record.prefix = _prefix.get()
    return True


class _BesideProgressBar(colorlog.StreamHandler):
    """A handler for the terminal that prints above a progress bar instead of through it."""

    def emit(self, record):
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # logging must not end a run
            self.handleError(record)


def start_logging(level: str, logfile: Path | None = None, append: bool = False) -> logging.Logger:
    """Return the logger `puffin`, which writes to the terminal and, if given, to a file.

    append: add to an existing file instead of overwriting it."""
    logger = logging.getLogger("puffin")
    logger.setLevel(level.upper())
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    terminal = _BesideProgressBar(sys.stderr)
    terminal.setFormatter(
        colorlog.ColoredFormatter(
            "%(log_color)s%(asctime)s %(levelname)-7s%(reset)s %(prefix)s%(message)s",
            "%H:%M:%S",
            no_color=not sys.stderr.isatty(),
        )
    )
    terminal.addFilter(_add_prefix)
    logger.addHandler(terminal)
    if logfile is not None:
        logfile.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(logfile, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        logger.addHandler(file)
    return logger
