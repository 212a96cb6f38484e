"""Lines of the log."""

import logging
import sys
import threading

import pytest

from puffin.training.logs import line_prefix, start_logging


@pytest.fixture
def log():
    """The logger, with its handlers restored afterwards."""
    log = logging.getLogger("puffin")
    before = list(log.handlers), log.level, log.propagate
    yield log
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.handlers, log.level, log.propagate = before


def test_prefix_of_a_trial(tmp_path, capsys, log):
    """Lines of a training say which trial they belong to, on the terminal alone; those of other threads do not.

    The prefix remains when a training opens a log file of its own. Breaks if the lines of parallel trials look
    alike."""
    start_logging("info")
    with line_prefix("trial 3: "):
        start_logging("info", tmp_path / "a.log")
        log.info("100% of it")
        thread = threading.Thread(target=lambda: log.info("sign of life"))
        thread.start()
        thread.join()
    log.info("after")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("INFO    ")[1] for line in lines] == ["trial 3: 100% of it", "sign of life", "after"]
    assert "trial" not in (tmp_path / "a.log").read_text()


@pytest.mark.parametrize("terminal, no_color, coloured", [(True, "", True), (True, "1", False), (False, "", False)])
def test_colours(terminal, no_color, coloured, log, capsys, monkeypatch):
    """Breaks if a file gets colours, or a terminal whose user has switched them off (https://no-color.org)."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    start_logging("info").warning("text")
    assert ("\x1b[" in capsys.readouterr().err) == coloured
