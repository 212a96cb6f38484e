"""How tests wait for other processes: until something has happened, never for a fixed time."""

import time
from collections.abc import Callable

PATIENCE = 600  # seconds; a process that needs more is assumed to hang


def wait_until(condition: Callable, still_possible: Callable[[], None] = lambda: None):
    """Wait until condition() is true, and return its value; still_possible() raises if that can no longer happen."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        still_possible()
        time.sleep(0.05)
    raise AssertionError(f"the condition was still false after {PATIENCE} s")
