"""Count the memory traffic of the CUDA kernels on a CPU, and compare it with what each kernel must move.

    PUFFIN_EMULATE=1 python3 setup.py build_kernels
    PUFFIN_KERNELS=emulated python3 bench/traffic.py --out docs/cuda_traffic.txt

The emulator (csrc/emulate) runs the kernels at the sizes of the 48k preset and of events with 10,000 points, and counts
for each kernel:

must      bytes of its inputs and outputs, each once
touched   sectors of 32 bytes that it reads or writes at all, over `must`: what the memory of a GPU moves if its caches
          hold the rest
loaded    sectors of all requests of warps, over `must`: what the caches serve
request   sectors per request, over the fewest that hold the same words: 1 if neighbouring lanes use neighbouring words
shared    passes per request of shared memory, over the fewest: 1 without bank conflicts
"""

import argparse
import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import torch

from bench.traffic_cases import Case, feature_cases, jet_cases, loss_cases, mix_cases, search_cases
from puffin.errors import InputError
from puffin.files import whole_file
from puffin.ops import library
from puffin.runs.entry import run_script
from puffin.settings.parser import OneLineParser

SECTOR = 32  # bytes
USE = "run PUFFIN_EMULATE=1 python3 setup.py build_kernels, and set PUFFIN_KERNELS=emulated"


@dataclass
class Passes:
    """Passes of the requests to one kind of memory, and the fewest that could move the same words."""

    passes: int = 0
    fewest: int = 0

    def add(self, row: dict[str, str]) -> None:
        """Add the counts of an instruction."""
        self.passes += int(row["passes"])
        self.fewest += int(row["fewest"])

    def ratio(self) -> str:
        """Return passes over the fewest, as text."""
        return f"{self.passes / self.fewest:.2f}" if self.fewest else "-"


@dataclass
class Traffic:
    """What a kernel moved: bytes of the sectors that it touched, passes of global and shared memory; its scattered
    instructions."""

    touched: int
    in_global: Passes = field(default_factory=Passes)
    in_shared: Passes = field(default_factory=Passes)
    scattered: list[dict[str, str]] = field(default_factory=list)


def count(run: Callable[[], object]) -> dict[str, Traffic]:
    """Run an operation in the emulator; return the traffic of its kernels by name."""
    counter = ctypes.CDLL(str(library.FOLDER / f"{library.KEYS['CPU']}.so")).puffin_count_traffic
    counter.argtypes, counter.restype = [ctypes.c_char_p], ctypes.c_bool
    run()  # once before, for tensors that are made only once
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traffic.tsv"
        counter(None)
        run()
        if not counter(os.fsencode(path)):
            raise InputError(f"{path}: could not be written")
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    kernels: dict[str, Traffic] = {}
    for row in (dict(zip(lines[0], line, strict=True)) for line in lines[1:]):
        name = re.sub("<(T|Job)>", "", row["kernel"])
        touched = SECTOR * (int(row["sectors_read"]) + int(row["sectors_written"]))
        traffic = kernels.setdefault(name, Traffic(touched))
        (traffic.in_shared if row["shared"] == "1" else traffic.in_global).add(row)
        if int(row["passes"]) > 1.5 * int(row["fewest"]):
            traffic.scattered.append(row)
    return kernels


def table_row(case: str, kernel: str, traffic: Traffic, must: int) -> str:
    """Return a line of the table."""
    touched, loaded = traffic.touched / must, SECTOR * traffic.in_global.passes / must
    ratios = f"{touched:9.2f}{loaded:9.2f}{traffic.in_global.ratio():>9}{traffic.in_shared.ratio():>8}"
    return f"{case:<24}{kernel:<28}{must / 2**20:9.2f}{ratios}"


def source_line(row: dict[str, str]) -> str:
    """Return where an instruction with scattered requests is in the source, and its passes."""
    path = library.FOLDER / f"{library.KEYS['CPU']}.so"
    command = ["addr2line", "-Cie", str(path), row["offset"]]
    found = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    inside = next((line for line in found if "/csrc/cuda/" in line), "unknown")
    kind = "writes" if row["write"] == "1" else "reads"
    memory = "shared" if row["shared"] == "1" else "global"
    place = inside.rsplit("/", 1)[-1].split(" ")[0]
    return f"    {place} {kind} {memory} memory: {row['passes']} passes, at best {row['fewest']}"


def report(cases: list[Case], with_lines: bool) -> list[str]:
    """Return the lines of the table."""
    lines = [f"{'operation':<24}{'kernel':<28}{'must MiB':>9}{'touched':>9}{'loaded':>9}{'request':>9}{'shared':>8}"]
    for case in cases:
        for name, traffic in count(case.run).items():
            lines.append(table_row(case.name, name, traffic, case.must[name]))
            if with_lines:
                lines += sorted({source_line(row) for row in traffic.scattered})
    return lines


def main(argv: list[str] | None = None) -> None:
    """Count the traffic of every operation and print the table."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", default="", metavar="NAME", help="count only operations whose name contains this (default: all)")
    add("--lines", action="store_true", help="also print the lines of the source with scattered requests (default: no)")
    add("--out", type=Path, metavar="FILE", help="also write the table to this file (default: only print it)")
    args = parser.parse_args(argv)
    if not library.EMULATED or not library.loaded("CPU"):
        raise InputError(f"the emulated kernels are not loaded; {USE}")
    torch.set_num_threads(1)
    cases = jet_cases() + mix_cases() + search_cases() + loss_cases() + feature_cases()
    lines = report([case for case in cases if args.only in case.name], args.lines)
    print("\n".join(lines))
    if args.out:
        with whole_file(args.out) as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main, hint="")
