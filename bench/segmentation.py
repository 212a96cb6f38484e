"""Points per second and memory of labelling events: train_segmentation.py --eval with predictions.

    python3 bench/segmentation.py                          # 128 and 1280 events of the sample, a small network, CPU
    python3 bench/segmentation.py --events 200 --preset config/segmentation_mae_fft.yaml -- --cuda

A checkpoint is made by one step of training, and two files from the sample's events, the second ten times as long.  Each is
labelled by the script in a process of its own, with and without writing predictions; flags after -- go to it.  Points per
second are those of the events that the longer file has more, so that the opening of files does not count.  Memory [bytes]
is the largest that the process had of its own, less what it had when PyTorch was imported: it must not grow with the file.
The first batches fill the C library's pools, so take enough events for both files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

FACTOR = 10  # between the two files


def make_file(path: Path, sample: Path, number: int) -> None:
    """A packed file of `number` events: those of the sample, over and over."""
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
        file["checksum"] = np.zeros(number, np.uint32)  # not looked at


def own_memory() -> int:
    """Bytes that this process holds of its own: without mapped files, whose pages the system can take back (Linux only)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def measure(argv: list[str]) -> None:
    """What one run of the script takes, as JSON on stdout: in a process that has done nothing else."""
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
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", *flags]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"failed: train_segmentation.py {' '.join(flags)}")
    return json.loads(result.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Make the files, run, print the table."""
    if arguments[:1] == ["--measure"]:
        return measure(arguments[1:])
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=128, help="of the shorter file (default: %(default)s)")
    parser.add_argument(
        "--preset", default=str(ROOT / "config/segmentation_quick.yaml"), help="network (default: %(default)s)"
    )
    parser.add_argument(
        "--sample", type=Path, default=ROOT / "data/sample_data/lartpc", help="folder of events to repeat"
    )
    args, further = parser.parse_args(arguments[:split]), arguments[split + 1 :] or ["--cpu", "--threads", "1"]

    from puffin.data.pilarnet_files import find_files

    with tempfile.TemporaryDirectory() as folder:
        work = ["--workdir", folder, "--no-plot", "--log-level", "warning", *further]
        in_child(
            "--yaml",
            args.preset,
            "--pretrained",
            "",
            "--finetune",
            "fft",
            "--datadir",
            str(args.sample),
            "--num-step",
            "1",
            "--batch-size",
            "2",
            "--num-train",
            "2",
            "--num-valid",
            "2",
            "--no-predict",
            "--prefix",
            "network",
            *work,
        )
        files = {n: Path(folder) / f"events{n}_v2.h5" for n in (args.events, FACTOR * args.events)}
        for number, path in files.items():
            make_file(path, find_files([args.sample / "val"])[0], number)
        print(
            f"{'predictions':12}{'events':>8}{'points':>12}{'seconds':>9}{'points/s':>10}{'memory':>16}{'GPU':>16}{'bytes/point':>13}"
        )
        for wish in ("--predict", "--no-predict"):
            earlier = None
            for number, path in files.items():
                flags = [
                    "--eval",
                    "--loadfile",
                    f"{folder}/model/network.pt",
                    "--testfile",
                    str(path),
                    "--prefix",
                    f"n{number}",
                ]
                row = in_child(*flags, wish, *(["test"] if wish == "--predict" else []), "--batch-size", "8", *work)
                row |= sizes(Path(folder), f"n{number}")
                rate = (row["points"] - earlier["points"]) / (row["seconds"] - earlier["seconds"]) if earlier else None
                print(
                    f"{'written' if wish == '--predict' else 'counted':12}{number:8d}{row['points']:12,}{row['seconds']:9.1f}"
                    f"{'' if rate is None else f'{rate:.0f}':>10}{row['memory']:16,}{row.get('gpu', 0):16,}"
                    f"{row['bytes'] / row['points'] if wish == '--predict' else 0:13.2f}",
                    flush=True,
                )
                earlier = row


def sizes(folder: Path, prefix: str) -> dict[str, int]:
    """Points in the predictions of a run, and bytes of their file."""
    import h5py

    path = folder / f"predict/{prefix}.best.test.h5"
    with h5py.File(path) as file:
        return {"points": int(file["ptr"][-1]), "bytes": path.stat().st_size}


if __name__ == "__main__":
    main(sys.argv[1:])
