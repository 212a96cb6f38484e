"""How tests wait for other processes: for what they do, never for a time in which they should have done it."""

import time
from collections.abc import Callable

PATIENCE = 600  # s after which something hangs; no working machine is that slow


def wait_until(condition: Callable, still_possible: Callable[[], None] = lambda: None):
    """What condition() gives as soon as it is true; still_possible() raises if it cannot become so any more."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        still_possible()
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE} s in vain")
