"""Helpers of the benchmarks: alternating timings, peak memory in a child process, flags."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from puffin.settings.types import integer


def add_timing_arguments(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add the flags of a measurement. names: the implementations that are compared, for the child processes."""
    add = parser.add_argument
    add("--repeat", type=integer(1), default=5, metavar="N", help="number of timed repetitions (default: %(default)s)")
    add("--threads", type=integer(1), default=2, metavar="N", help="number of CPU threads (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="also write the report to this text file (default: only print it)")
    add("--memory-of", choices=names, help=argparse.SUPPRESS)


def check_positive(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """Exit with an error unless these arguments are at least 1."""
    for name in names:
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that the action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turns(actions: dict[str, Sequence[Callable[[], None]]], repeat: int, label: str) -> dict[str, float]:
    """Return the median seconds by name. The actions alternate (A B C A B C ...), after one untimed round.

    actions: for each name a list of actions, one for each batch; the rounds go through the list again and again.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for round_ in range(-1, repeat):
        for name, choices in actions.items():
            seconds[name].append(timed(choices[round_ % len(choices)]))
            print(f"{label} {round_ + 1}/{repeat} {name}: {seconds[name][-1]:.3f} s", file=sys.stderr)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def memory_of(step: Callable[[], None]) -> int:
    """Return by how many bytes a step raises the peak memory of this process. Call it in a fresh process."""
    before = _peak()
    step()
    return _peak() - before


def memory_in_child(program: str, name: str, arguments: Sequence[str]) -> int:
    """Run `program --memory-of NAME` with the flags of this process, and return the bytes that it prints."""
    child = subprocess.run([sys.executable, program, *arguments, "--memory-of", name], capture_output=True, text=True)
    if child.returncode:
        sys.exit(f"measuring the memory of {name} failed (exit {child.returncode}):\n{child.stderr[-2000:]}")
    return json.loads(child.stdout)


class PeakMemory(threading.Thread):
    """Measure the memory every 50 ms until the process ends; `before` is the first value, `peak` the maximum."""

    def __init__(self, now: Callable[[], float]):
        super().__init__(daemon=True)
        self.now, self.before = now, now()
        self.peak = self.before
        self.start()

    def run(self) -> None:
        """Update the peak."""
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.05)


def publish(report: str, out: Path | None) -> None:
    """Print the report, and write it to a file if one is given."""
    print(report)
    if out:
        out.write_text(report + "\n", encoding="utf-8")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
