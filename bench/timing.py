"""What the comparisons share: times in turns, memory of a step in a process of its own, flags."""

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


def add_timing_arguments(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """How to measure.  names: of what is compared, for the child processes."""
    parser.add_argument("--repeat", type=int, default=5, help="timed turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the report to this text file too")
    parser.add_argument("--memory-of", choices=names, help=argparse.SUPPRESS)


def check_positive(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """Ends with a line unless these numbers, --repeat and --threads are at least 1."""
    for name in (*names, "repeat", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")


def timed(action: Callable[[], None]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turns(actions: dict[str, Sequence[Callable[[], None]]], repeat: int, label: str) -> dict[str, float]:
    """Median seconds by name, A B C A B C ..., after one untimed turn each.

    actions: of each name those of its turns, over and over: one, or one for each batch."""
    seconds = {name: [] for name in actions}
    for turn in range(-1, repeat):
        for name, mine in actions.items():
            seconds[name].append(timed(mine[turn % len(mine)]))
            print(f"{label} {turn + 1}/{repeat} {name}: {seconds[name][-1]:.3f} s", file=sys.stderr)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def memory_of(step: Callable[[], None]) -> int:
    """Bytes by which a step raises the most that this process ever held.  Meant for a fresh process."""
    before = _peak()
    step()
    return _peak() - before


def memory_in_child(program: str, name: str, arguments: Sequence[str]) -> int:
    """What `program --memory-of NAME` prints, run with the flags of this process."""
    child = subprocess.run([sys.executable, program, *arguments, "--memory-of", name], capture_output=True, text=True)
    if child.returncode:
        sys.exit(f"measuring the memory of {name} failed (exit {child.returncode}):\n{child.stderr[-2000:]}")
    return json.loads(child.stdout)


class PeakMemory(threading.Thread):
    """Asks every 50 ms how much memory is held now, `before` at first, `peak` at most; to the end of the process."""

    def __init__(self, now: Callable[[], float]):
        super().__init__(daemon=True)
        self.now, self.before = now, now()
        self.peak = self.before
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.05)


def publish(report: str, out: Path | None) -> None:
    """Print the report, and write it if a file is given."""
    print(report)
    if out:
        out.write_text(report + "\n")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
