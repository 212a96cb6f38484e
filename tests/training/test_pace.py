"""What an evaluation shows of its progress."""

import logging

import torch

from puffin.training import pace as module
from puffin.training.pace import Pace, peak_memory

CPU = torch.device("cpu")


def test_a_log_shows_rate_and_time_left(caplog, monkeypatch):
    """Without a terminal there is a line a minute. Breaks if it counts batches instead of events, or the time left is
    not that of the events that are left."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "puffin")
    with Pace("test", 1_000_000, CPU) as pace:
        for seconds in (20, 40, 61, 100):
            now[0] = seconds
            pace.add(50_000)
    assert len(caplog.messages) == 1
    line = caplog.messages[0]
    assert line.startswith("test: 150,000 of 1,000,000 events, 2459 events/s, peak memory ")
    assert line.endswith(" MB, 6 min left")  # 850,000 events at 2459 events/s
    now[0] = 200
    assert pace.summary().startswith("evaluated 200,000 events (test) in 200.0 s, 1000 events/s, peak memory ")


def test_the_number_of_events_may_be_unknown(caplog, monkeypatch):
    """As with a loader that is only an iterable. Breaks if the line needs a total."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    caplog.set_level(logging.INFO, "puffin")
    with Pace("test", None, CPU) as pace:
        pace.add(3)
    assert " 3 events, " in caplog.messages[0] and "left" not in caplog.messages[0]


def test_peak_memory_is_in_bytes():
    """A Python process with PyTorch needs more than 50 MB and less than the machine has."""
    assert 50e6 < peak_memory(CPU) < 1e12
