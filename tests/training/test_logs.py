"""Lines of the log."""

import logging
import threading

from puffin.training.logs import line_prefix, start_logging


def test_prefix_of_a_trial(tmp_path, capsys):
    """Lines of a training say which trial they belong to, on the terminal alone; those of other threads do not.

    The prefix remains when a training opens a log file of its own. Breaks if the lines of parallel trials look
    alike."""
    log = logging.getLogger("puffin")
    before = list(log.handlers), log.level, log.propagate
    start_logging("info")
    try:
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
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
            handler.close()
        log.handlers, log.level, log.propagate = before[0], before[1], before[2]
