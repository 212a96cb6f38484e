"""The machine of a report, and how its device is timed and watched."""

import contextlib
import importlib.metadata
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import torch

from bench.gpu.report import Report, Skipped
from puffin.checkpoints.writing import git_commit
from puffin.ops import library


def describe(report: Report, device: torch.device) -> None:
    """Add what is needed to understand the numbers: machine, versions, commit."""
    report.section("Machine")
    report.line(
        f"puffin {_version('puffin-hep')}, commit {git_commit() or 'unknown'}, Python {platform.python_version()}"
    )
    report.line(f"{platform.platform()}, {torch.get_num_threads()} CPU threads")
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        report.line(
            f"{p.name}, compute capability {p.major}.{p.minor}, {p.multi_processor_count} multiprocessors, "
            f"{p.total_memory / 2**30:.1f} GiB; driver {_driver()}; {torch.cuda.device_count()} GPU(s)"
        )
    else:
        report.line("No GPU is used: this run checks the CPU kernels.")
    for line in library.describe().splitlines():
        report.line(line)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "unknown"


def kernels_loaded(device: torch.device) -> str:
    """Return that the kernels of the device are loaded; raise RuntimeError that says why not."""
    key = device.type.upper()
    if not library.loaded(key):
        name = library.KEYS.get(key) or key
        raise RuntimeError(f"{name} is {library.states().get(name, 'unknown')}; everything below is plain PyTorch")
    return f"{library.KEYS[key]} is loaded"


def need_cuda(device: torch.device) -> None:
    """Raise Skipped on a CPU."""
    if device.type != "cuda":
        raise Skipped("needs CUDA")


@contextlib.contextmanager
def no_waits() -> Iterator[None]:
    """Within this block, an operation that makes the host wait for the GPU raises RuntimeError."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def seconds(function: Callable[[], object], device: torch.device, budget: float = 1.0) -> float:
    """Return the median time of a call; calls repeat for about `budget` seconds, after one for warmth.

    On a GPU the time is that of the queued work, between two events of the stream."""
    function()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 200 and time.perf_counter() - begin < (budget if len(times) >= 3 else 10 * budget + 1):
        times.append(_once(function, device))
    return statistics.median(times)


def _once(function: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    function()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3
