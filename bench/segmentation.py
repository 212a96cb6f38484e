"""Measure the speed and memory of `train_segmentation.py --eval`, with and without predictions.

    python3 bench/segmentation.py                          # 128 and 1280 events of the sample, a small network, CPU
    python3 bench/segmentation.py --events 200 --preset config/segmentation_mae_fft.yaml -- --cuda

The benchmark makes a checkpoint with one training step, and two files from the sample events, the second ten times as
long. The script evaluates each file in a separate process, with and without writing predictions; flags after -- are
passed on to it. The points per second are computed from the difference between the two files, so that the time to
open a file does not count. The memory [bytes] is the peak of the process' own memory, minus its memory after the
import of PyTorch: it must not grow with the length of the file. The first batches fill the memory pools of the C
library, so use enough events.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer

ROOT = Path(__file__).resolve().parents[1]
FACTOR = 10  # number of events of the second file / of the first file


def make_file(path: Path, sample: Path, number: int) -> None:
    """Write a packed file of `number` events: the events of the sample, repeated."""
    import h5py
    import numpy as np

    from puffin.data.pilarnet_files import EventFile

    with EventFile(sample) as source:
        events = [source.read(row) for row in range(len(source))]
        version = source.version
    chosen = [events[k % len(events)] for k in range(number)]
    with h5py.File(path, "w") as file:
        file.attrs.update(packed=True, version=version)
        for name, pointer, column in (("points", "point_ptr", 0), ("clusters", "cluster_ptr", 1)):
            sizes = [len(event[column]) for event in chosen]
            data = file.create_dataset(name, (sum(sizes), events[0][column].shape[1]), "f4" if column == 0 else "i4")
            ends = np.cumsum([0, *sizes])
            for event, first, last in zip(chosen, ends[:-1], ends[1:], strict=False):
                data[first:last] = event[column]
            file[pointer] = ends
        file["checksum"] = np.zeros(number, np.uint32)  # is not read


def own_memory() -> int:
    """Return the bytes of this process without mapped files, whose pages the system can free (Linux only)."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("RssAnon:")
    ]
    return int(line.split()[1]) * 1024


def measure(argv: list[str]) -> None:
    """Run the script once and print its time and memory as JSON. Call it in a fresh process."""
    import torch

    import train_segmentation
    from bench.timing import PeakMemory
    from puffin.runs.entry import run_script

    memory, clock = PeakMemory(own_memory), time.perf_counter()
    run_script(train_segmentation.main, argv)
    result = {"seconds": time.perf_counter() - clock, "memory": memory.peak - memory.before}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        result["gpu"] = torch.cuda.max_memory_allocated()
    print(json.dumps(result))


def in_child(*flags: str) -> dict:
    """Call `measure` in a separate process."""
    command = [sys.executable, __file__, "--measure", *flags]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"error: this command failed: train_segmentation.py {' '.join(flags)}")
    return json.loads(result.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Make the checkpoint and the files, evaluate them, and print a row for each."""
    if arguments[:1] == ["--measure"]:
        return measure(arguments[1:])
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, preset = parser.add_argument, str(ROOT / "config/segmentation_quick.yaml")
    add("--events", type=integer(1), default=128, metavar="N", help="events in the first file (default: %(default)s)")
    add("--preset", default=preset, metavar="FILE", help="preset of the network (default: segmentation_quick.yaml)")
    sample = ROOT / "data/sample_data/lartpc"
    add("--sample", type=Path, default=sample, metavar="DIR", help="events to repeat (default: the sample events)")
    args, further = parser.parse_args(arguments[:split]), arguments[split + 1 :] or ["--cpu", "--threads", "1"]

    from puffin.data.pilarnet_files import find_files

    with tempfile.TemporaryDirectory() as folder:
        work = ["--workdir", folder, "--no-plot", "--log-level", "warning", *further]
        tiny = "--finetune fft --num-step 1 --batch-size 2 --num-train 2 --num-valid 2 --no-predict --prefix network"
        in_child("--yaml", args.preset, "--pretrained", "", "--datadir", str(args.sample), *tiny.split(), *work)
        files = {n: Path(folder) / f"events{n}_v2.h5" for n in (args.events, FACTOR * args.events)}
        for number, path in files.items():
            make_file(path, find_files([args.sample / "val"])[0], number)
        print(
            f"{'predictions':12}{'events':>8}{'points':>12}{'seconds':>9}{'points/s':>10}{'memory':>16}{'GPU':>16}"
            f"{'bytes/point':>13}"
        )
        for label, predict in {"written": ["--predict", "test"], "counted": ["--no-predict"]}.items():
            shorter: dict = {}
            for number, path in files.items():
                flags = ["--eval", "--loadfile", f"{folder}/model/network.pt", "--testfile", str(path)]
                flags += ["--prefix", f"n{number}", *predict, "--batch-size", "8"]
                row = in_child(*flags, *work) | sizes(Path(folder), f"n{number}")
                print(line(label, number, row, shorter), flush=True)
                shorter = row


def line(label: str, number: int, row: dict, shorter: dict) -> str:
    """Format a row of the table. shorter: the row of the shorter file, empty for that file itself."""
    rate = ""
    if shorter:
        rate = f"{(row['points'] - shorter['points']) / (row['seconds'] - shorter['seconds']):.0f}"
    size = row["bytes"] / row["points"] if label == "written" else 0
    return (
        f"{label:12}{number:8d}{row['points']:12,}{row['seconds']:9.1f}{rate:>10}"
        f"{row['memory']:16,}{row.get('gpu', 0):16,}{size:13.2f}"
    )


def sizes(folder: Path, prefix: str) -> dict[str, int]:
    """Return the number of points in the predictions of a run, and the bytes of their file."""
    import h5py

    path = folder / f"predict/{prefix}.best.test.h5"
    with h5py.File(path) as file:
        return {"points": int(file["ptr"][-1]), "bytes": path.stat().st_size}


if __name__ == "__main__":
    main(sys.argv[1:])
