"""Events/s of the LArTPC reader, from both layouts and with several workers: `python bench/pilarnet_data.py`.

Simulated events are repeated to a data set of --events. The files are in the page cache: this is the cost of reading,
preparing and handing over, not that of the disk. Every row is the best of --repeats, each in a process of its own.
Memory is what the reader and its workers hold beyond the idle process: private and shared, without mapped files (Linux).
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

NEED = 2000  # events/s that one training GPU takes


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Speed of the LArTPC reader.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--events", type=int, default=2048, help="of the data set")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--measure", nargs=2, metavar=("FILE", "WORKERS"), help=argparse.SUPPRESS
    )  # the process of one row
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
    """The same events in the published layout, packed, and packed with compression."""
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
    command = [sys.executable, __file__, "--measure", str(path), str(workers), "--batch-size", str(args.batch_size)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(path: Path, workers: int, args: argparse.Namespace) -> dict[str, float]:
    """One shuffled epoch after one to warm up: events per second and bytes."""
    import torch

    from puffin.data.loader import make_loader
    from puffin.data.pilarnet import CloudDataset, CloudSelection
    from puffin.data.sampler import EpochBatches

    torch.set_num_threads(1)
    idle = memory_of_family()
    dataset = CloudDataset([path], CloudSelection())
    batches = EpochBatches(len(dataset), args.batch_size, shuffle=True)
    loader = make_loader(dataset, batches, workers, pin_memory=False)
    most = 0
    for epoch in range(3):
        batches.start(epoch)
        start, seen = time.perf_counter(), 0
        for batch in loader:
            seen += len(batch)
            if epoch == 2:  # not timed: to look costs time
                most = max(most, memory_of_family() - idle)
        if epoch == 1:
            speed = seen / (time.perf_counter() - start)
    return {"speed": speed, "memory": most}


def memory_of_family() -> int:
    """Bytes that this process and its children hold; what several share is counted once."""
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *chain.from_iterable(p.read_text().split() for p in children)]
    total = 0
    for pid in pids:
        with suppress(OSError):  # a process that has ended
            fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
            total += sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) * 1024
    return total


if __name__ == "__main__":
    main()
