"""Measure how many jets per second the loader reads, in memory and streamed, compared to the speed of training.

    python3 bench/data.py                          # 200,000 jets, batches of 64
    python3 bench/data.py --num-jets 50000 --preset 11k

The benchmark writes a gzip-compressed file to a temporary folder, in the format of make_jets.py: the sample jets,
repeated, with each copy in a different order. Each way of reading runs in a separate process, for one shuffled epoch,
with the loader of the training scripts. The clock starts when the data set is open (the time to open it, which for
data in memory includes reading, is a column of its own) and includes the start of the workers. The memory is the peak
of the process and its workers, with each shared page counted once (PSS, measured every 50 ms; Linux only), minus the
memory before the data set was opened. The training speed is measured in a few steps of the preset on the same jets,
with the compiled kernels if they are built.
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

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import h5py
import numpy as np
import torch

from bench.timing import PeakMemory
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer

ROOT = Path(__file__).resolve().parents[1]


class Mode(NamedTuple):
    """A way of reading: all jets at once or streamed, and the number of worker processes."""

    in_memory: bool
    workers: int


MODES = {
    "in memory": Mode(True, 0),
    "streamed": Mode(False, 0),
    "streamed, 1 worker": Mode(False, 1),
    "streamed, 2 workers": Mode(False, 2),
}


def make_file(path: Path, sample: Path, number: int) -> None:
    """Write `number` jets (number, 200, 4): those of the sample, repeated, and stored in the same way."""
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
    """Return the MiB that this process and its children use, with shared pages counted once."""
    total = 0
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:  # the process has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**10


def measure(mode: Mode, file: Path, batch_size: int) -> dict[str, float]:
    """Return the seconds to open the file, the jets per second, and the memory [MiB]."""
    memory, clock = PeakMemory(memory_with_children), time.perf_counter()
    dataset = JetDataset([file], JetSelection(in_memory=mode.in_memory))
    opened = time.perf_counter() - clock
    batches = EpochBatches(len(dataset), batch_size, True, 1, chunk_of=dataset.chunk_of_events())
    loader, jets, clock = make_loader(dataset, batches, mode.workers, False), 0, time.perf_counter()
    for batch in loader:
        jets += len(batch)
    seconds = time.perf_counter() - clock
    return {"opened": opened, "jets_per_second": jets / seconds, "memory": memory.peak - memory.before}


def training_speed(preset: str, file: Path, batch_size: int, steps: int) -> float:
    """Return the jets per second of training the preset, without the time of the loader."""
    from puffin.models.pelican import PelicanClassifier
    from puffin.settings.flags import parse
    from puffin.settings.jets import ClassifierSettings
    from puffin.tasks.classification import JetClassification
    from puffin.training.memory import keep_freed_memory
    from puffin.training.optimizers import make_optimizer

    keep_freed_memory()
    settings = parse(ClassifierSettings, "", ["--yaml", str(ROOT / f"config/{preset}.yaml")]).settings()
    task = JetClassification(PelicanClassifier(settings.network))
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
    return batch_size * steps / sum(seconds[1:])  # the first step allocates memory


def in_child(arguments: list[str], file: Path, quantity: str):
    """Measure one mode, or the training speed, in a separate process."""
    command = [sys.executable, __file__, *arguments, "--file", str(file), "--measure", quantity]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    presets = sorted(path.stem for path in (ROOT / "config").glob("[0-9]*k.yaml")) + ["quickstart"]
    add("--num-jets", type=integer(1), default=200_000, metavar="N", help="jets in the file (default: %(default)s)")
    add("--batch-size", type=integer(1), default=64, metavar="N", help="jets per batch (default: %(default)s)")
    add("--preset", choices=presets, default="48k", help="network for the training speed (default: %(default)s)")
    add("--steps", type=integer(1), default=5, metavar="N", help="timed training steps (default: %(default)s)")
    sample = ROOT / "data/sample_data/run12/train.h5"
    add("--sample", type=Path, default=sample, metavar="FILE", help="jets to repeat (default: the sample jets)")
    add("--file", type=Path, metavar="FILE", help="read this file (default: write a file of --num-jets jets)")
    add("--measure", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure every mode in a child process, and print a row for each."""
    args = parse(arguments)
    if args.measure == "training":
        print(json.dumps(training_speed(args.preset, args.file, args.batch_size, args.steps)))
        return
    if args.measure:
        print(json.dumps(measure(MODES[args.measure], args.file, args.batch_size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = args.file or Path(folder) / "train.h5"
        if args.file is None:
            make_file(file, args.sample, args.num_jets)
        size, threads = file.stat().st_size / 2**20, torch.get_num_threads()
        print(f"{size:.0f} MiB on disk, batches of {args.batch_size}, {threads} threads, torch {torch.__version__}")
        speed = in_child(arguments, file, "training")
        print(f"training, {args.preset}: {speed:.0f} jets/s\n")
        print(f"{'':22}{'to open':>9}{'jets/s':>10}{'x training':>12}{'memory':>11}")
        for name in MODES:
            row = in_child(arguments, file, name)
            rate = row["jets_per_second"]
            line = f"{name:22}{row['opened']:>7.1f} s{rate:>10.0f}{rate / speed:>12.0f}{row['memory']:>7.0f} MiB"
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
