"""Work shared among processes, results in order."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process


def ordered_map(function: Callable, tasks: Iterable, jobs: int) -> Iterator:
    """function(task) of each task, in order, in this process (jobs = 1) or in `jobs` others.

    A bounded number is under way, so that memory does not grow with the number of tasks."""
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
    """Leave Ctrl-C to the parent, and end with it even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
