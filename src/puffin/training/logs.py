"""Logging: coloured lines on the terminal, plain lines in the file."""

import logging
import sys
from pathlib import Path

import colorlog
from tqdm import tqdm

LEVELS = ("debug", "info", "warning", "error")


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
            "%(log_color)s%(asctime)s %(levelname)-7s%(reset)s %(message)s",
            "%H:%M:%S",
            no_color=not sys.stderr.isatty(),
        )
    )
    logger.addHandler(terminal)
    if logfile is not None:
        logfile.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(logfile, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        logger.addHandler(file)
    return logger
