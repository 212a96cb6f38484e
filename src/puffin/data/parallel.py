"""Spread work over processes; the results come in order."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process


def ordered_map(function: Callable, tasks: Iterable, jobs: int) -> Iterator:
    """Yield function(task) of each task, in order, computed in this process (jobs = 1) or in `jobs` worker processes.

    At most a few tasks per worker are queued, so memory does not grow with the number of tasks."""
    if jobs == 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker) as pool:
        try:
            waiting = deque()
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 3 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            for child in active_children():
                child.terminate()
            raise


def _start_worker() -> None:
    """Ignore Ctrl-C, which the parent handles, and exit when the parent ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent()


def exit_with_parent() -> None:
    """Make this worker process exit when its parent ends, even if the parent is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent_process().join()
    os._exit(1)
