"""Measure how many events per second the LArTPC reader reads, from each file layout and with several workers.

    python3 bench/pilarnet_data.py

A few simulated events are repeated to get a data set of --events. The files are in the page cache, so the benchmark
measures the time to read, prepare and pass on the events, without the time of the disk. Each row is the best of
--repeats runs, each in a separate process. The memory is what the reader and its workers use in addition to the idle
process: private and shared, without mapped files (Linux only).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer

NEED = 2000  # events/s that training on one GPU uses


def main() -> None:
    """Measure each file layout with each number of workers, and print one row each."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--events", type=integer(1), default=2048, metavar="N", help="events in the data set (default: %(default)s)")
    add("--batch-size", type=integer(1), default=64, metavar="N", help="events per batch (default: %(default)s)")
    add(
        "--workers",
        type=integer(0),
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="numbers of worker processes to compare; 0: the main process reads (default: 0 1 2)",
    )
    add(
        "--repeats",
        type=integer(1),
        default=3,
        metavar="N",
        help="runs per row, the best counts (default: %(default)s)",
    )
    add("--measure", nargs=2, metavar=("FILE", "WORKERS"), help=argparse.SUPPRESS)  # used by the process of one row
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(Path(args.measure[0]), int(args.measure[1]), args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), args.events)
        print(f"{args.events} events, batches of {args.batch_size}")
        print(f"{'layout':10} {'size':>8} {'workers':>8} {'events/s':>9} {'of need':>8} {'memory':>8}")
        for name, path in files.items():
            for workers in args.workers:
                runs = [one_run(path, workers, args) for _ in range(args.repeats)]
                speed, memory = max(r["speed"] for r in runs), min(r["memory"] for r in runs)
                size = path.stat().st_size / args.events / 1e3
                print(
                    f"{name:10} {size:5.0f} kB {workers:8d} {speed:9.0f} {speed / NEED:8.2f} {memory / 1e6:5.0f} MB",
                    flush=True,
                )


def write_files(folder: Path, number: int) -> dict[str, Path]:
    """Write the same events in the published layout, packed, and packed with compression."""
    from make_lartpc import make_block, write_events
    from repack_pilarnet import repack

    few = [event for block in range(4) for event in make_block((0, 0, block, 32))]
    published = folder / "events_v2.h5"
    events = chain.from_iterable(repeat(few))
    write_events(published, (next(events) for _ in range(number)), number, "v2", {})
    files = {"published": published}
    for name, compress in (("packed", False), ("gzip", True)):
        files[name] = folder / f"{name}_v2.h5"
        repack((published, files[name]), compress, skip_bad=False)
    return files


def one_run(path: Path, workers: int, args: argparse.Namespace) -> dict[str, float]:
    """Call `measure` in a separate process."""
    command = [sys.executable, __file__, "--measure", str(path), str(workers), "--batch-size", str(args.batch_size)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(path: Path, workers: int, args: argparse.Namespace) -> dict[str, float]:
    """Return events per second and bytes, for one shuffled epoch after an epoch to warm up."""
    import torch

    from puffin.data.loader import make_loader
    from puffin.data.pilarnet import CloudDataset, CloudSelection
    from puffin.data.sampler import EpochBatches

    torch.set_num_threads(1)
    idle = memory_of_family()
    dataset = CloudDataset([path], CloudSelection())
    batches = EpochBatches(len(dataset), args.batch_size, shuffle=True)
    loader = make_loader(dataset, batches, workers, pin_memory=False)
    peak, speed = 0, 0.0
    for epoch in range(3):
        batches.start(epoch)
        start, seen = time.perf_counter(), 0
        for batch in loader:
            seen += len(batch)
            if epoch == 2:  # not timed, because measuring the memory takes time
                peak = max(peak, memory_of_family() - idle)
        if epoch == 1:
            speed = seen / (time.perf_counter() - start)
    return {"speed": speed, "memory": peak}


def memory_of_family() -> int:
    """Return the bytes that this process and its children use, with shared pages counted once."""
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *chain.from_iterable(p.read_text(encoding="utf-8").split() for p in children)]
    total = 0
    for pid in pids:
        with suppress(OSError):  # a process that has ended
            fields = dict(
                line.split(":")
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
            )
            total += sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) * 1024
    return total


if __name__ == "__main__":
    main()
