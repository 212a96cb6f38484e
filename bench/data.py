"""Jets per second that the loader gives, in memory and streamed, against what training takes.

    python3 bench/data.py                          # 200,000 jets, batches of 64
    python3 bench/data.py --num-jets 50000 --preset 11k

A gzip file is made in a temporary folder from the sample jets, repeated, each copy in another order, as make_jets.py
would write it.  Each way of reading runs in a process of its own, through one shuffled epoch, with the script's own
loader; the clock starts when the data set is open (in memory: read, which is timed apart) and includes starting the
workers.  Memory is that of the process and its workers together, each shared page counted once (PSS, looked at every 50 ms;
Linux only), at its peak, less what there was before the data set was opened.  The training speed is that of a few steps
of the preset on the same jets, with the compiled kernels where they are built.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import h5py
import numpy as np
import torch

from bench.timing import PeakMemory
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches

ROOT = Path(__file__).resolve().parents[1]


class Way(NamedTuple):
    in_memory: bool
    workers: int


WAYS = {
    "in memory": Way(True, 0),
    "streamed": Way(False, 0),
    "streamed, 1 worker": Way(False, 1),
    "streamed, 2 workers": Way(False, 2),
}


def make_file(path: Path, sample: Path, number: int) -> None:
    """`number` jets (number, 200, 4) from those of the sample, stored in the same way."""
    rng = np.random.default_rng(0)
    with h5py.File(sample) as source, h5py.File(path, "w") as file:
        momenta, labels = source["Pmu"][:], source["is_signal"][:]
        out = file.create_dataset(
            "Pmu",
            (number, *momenta.shape[1:]),
            momenta.dtype,
            chunks=source["Pmu"].chunks,
            compression="gzip",
            shuffle=source["Pmu"].shuffle,
        )
        targets = np.empty(number, labels.dtype)
        for start in range(0, number, len(momenta)):
            order = rng.permutation(len(momenta))[: number - start]
            out[start : start + len(order)], targets[start : start + len(order)] = momenta[order], labels[order]
        file["is_signal"] = targets


def memory_with_children() -> float:
    """MiB that this process and its children hold, pages that they share counted once."""
    total = 0
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**10


def measure(way: Way, file: Path, batch_size: int) -> dict[str, float]:
    """Seconds to open, jets per second, MiB."""
    memory, clock = PeakMemory(memory_with_children), time.perf_counter()
    dataset = JetDataset([file], JetSelection(in_memory=way.in_memory))
    opened = time.perf_counter() - clock
    batches = EpochBatches(len(dataset), batch_size, True, 1, chunk_of=dataset.chunk_of_events())
    loader, jets, clock = make_loader(dataset, batches, way.workers, False), 0, time.perf_counter()
    for batch in loader:
        jets += len(batch)
    seconds = time.perf_counter() - clock
    return {"opened": opened, "jets_per_second": jets / seconds, "memory": memory.peak - memory.before}


def training_speed(preset: str, file: Path, batch_size: int, steps: int) -> float:
    """Jets per second of the preset, the loader's time not counted."""
    import train_pelican_classifier as script
    from puffin.cli.pelican import pelican_config
    from puffin.models.pelican import PelicanClassifier
    from puffin.tasks.classification import JetClassification
    from puffin.training.memory import keep_freed_memory
    from puffin.training.optimizers import make_optimizer

    keep_freed_memory()
    args, _ = script.parse_arguments(script.make_parser, ["--yaml", str(ROOT / f"config/{preset}.yaml")])
    task = JetClassification(PelicanClassifier(pelican_config(args)))
    optimizer = make_optimizer("adamw", task.model.parameters(), 1e-3, 0.0)
    dataset = JetDataset([file], JetSelection(in_memory=False))
    seconds = []
    for k in range(steps + 1):
        batch = dataset.__getitems__(list(range(k * batch_size, (k + 1) * batch_size)))
        clock = time.perf_counter()
        optimizer.zero_grad()
        task.step(batch).loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - clock)
    return batch_size * steps / sum(seconds[1:])  # the first step allocates


def in_child(arguments: list[str], file: Path, what: str):
    """The result of this script for one way, in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--file", str(file), "--measure", what]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-jets", type=int, default=200_000, help="jets in the file (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="jets per batch (default: %(default)s)")
    parser.add_argument("--preset", default="48k", help="network whose training speed is shown (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="its timed steps (default: %(default)s)")
    parser.add_argument("--sample", type=Path, default=ROOT / "data/sample_data/run12/train.h5", help="jets to repeat")
    parser.add_argument("--file", type=Path, help="read this file instead of making one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    if args.measure:
        training = args.measure == "training"
        result = training_speed(args.preset, args.file, args.batch_size, args.steps) if training else None
        print(json.dumps(result if training else measure(WAYS[args.measure], args.file, args.batch_size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = args.file or Path(folder) / "train.h5"
        if args.file is None:
            make_file(file, args.sample, args.num_jets)
        print(
            f"{file.stat().st_size / 2**20:.0f} MiB on disk, batches of {args.batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        )
        speed = in_child(arguments, file, "training")
        print(f"training, {args.preset}: {speed:.0f} jets/s\n")
        print(f"{'':22}{'to open':>9}{'jets/s':>10}{'x training':>12}{'memory':>11}")
        for name in WAYS:
            row = in_child(arguments, file, name)
            ratio = row["jets_per_second"] / speed
            print(
                f"{name:22}{row['opened']:>7.1f} s{row['jets_per_second']:>10.0f}{ratio:>12.0f}{row['memory']:>7.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
