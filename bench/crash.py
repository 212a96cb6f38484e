#!/usr/bin/env python3
"""Kill trainings at random moments, fill their disks, and check that nothing is lost.

  python3 bench/crash.py --kills 200 --disks 20

Each of the four scripts trains a tiny network with 0 and 2 workers and with 2 processes. A training is killed (SIGKILL,
all its processes) again and again, and resumed each time with --load, until it has finished. Its weights, those of its
best epoch, its optimizer, its history and its table of steps must be bitwise those of a training that was left alone.
Kills come at times between the start of the process and the end of what is left of the training.

A full disk is a small file system in memory that something else fills at a random moment. The training must end with
one readable line. What it leaves is resumed elsewhere, and must reach the same weights; no epoch that was finished
before may be missing. This part needs user namespaces (unshare).
"""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import torch

from puffin.checkpoints.reading import read_checkpoint
from puffin.settings.parser import OneLineParser

ROOT = Path(__file__).resolve().parents[1]
JETS = f"--datadir {ROOT}/data/sample_data/run12 --num-train 120 --num-valid 30 --num-test 30 --nobj 10 --batch-size 12"
PELICAN = (
    f"{JETS} --num-channels-m [[4],[4]] --num-channels-2to2 [4,4] --num-channels-m-out [4,4] --num-channels-out 4 "
    "--num-channels-scalar 2 --drop-rate 0.1"
)
CLOUDS = (
    f"--datadir {ROOT}/data/sample_data/lartpc --num-train 12 --num-valid 6 --group-size 8 --context 60 --batch-size 2 "
    "--arch vit_tiny --depth 1 --min-points 50"
)
SCRIPTS = {
    "train_pelican_classifier.py": PELICAN,
    "train_pelican_cov.py": f"{PELICAN} --target truth_Pmu",
    "train_pointmae.py": f"{CLOUDS} --decoder-depth 1 --no-probe --ema 0.9",
    "train_segmentation.py": CLOUDS,
}
COMMON = "--cpu --threads 1 --double --num-epoch 4 --save-every 2 --no-plot --summarize-csv all --prefix crash"
WAYS = {"0 workers": "--num-workers 0", "2 workers": "--num-workers 2", "2 processes": ""}
PATIENCE = 600  # s, for a training of a few seconds


@dataclass(frozen=True)
class Case:
    """A training: a script, and how its data come."""

    script: str
    way: str

    def command(self, work: Path, *further: str) -> list[str]:
        """Return the command that trains in the folder `work`."""
        flags = [*SCRIPTS[self.script].split(), *COMMON.split(), *WAYS[self.way].split(), "--workdir", str(work)]
        start = [sys.executable]
        if self.way == "2 processes":
            start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        return [*start, str(ROOT / self.script), *flags, *further]

    def resumed(self, work: Path) -> list[str]:
        """Return the command that a user gives after a kill: with --load, as soon as there is a checkpoint."""
        return self.command(work, *(["--load"] if (work / "model/crash.pt").exists() else []))


def run(command: list[str], kill_after: float | None = None) -> tuple[int | None, float, str]:
    """Run a command; return its exit status (None if it was killed), its time [s], and what it printed to stderr."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=errors, stderr=errors, env=environment, start_new_session=True
        )
        try:
            code: int | None = process.wait(PATIENCE if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill_session(process.pid)
            process.wait()
        errors.seek(0)
        return code, time.monotonic() - start, errors.read()


def _kill_session(leader: int) -> None:
    """Kill all processes of a session; torchrun starts its workers in sessions of their own."""
    for process in [leader, *_descendants(leader)]:
        for kill in (os.killpg, os.kill):
            try:
                kill(process, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def _descendants(process: int) -> list[int]:
    found, waiting = [], [process]
    while waiting:
        parent = waiting.pop()
        try:
            text = " ".join(
                Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="ascii")
                for task in os.listdir(f"/proc/{parent}/task")
            )
        except OSError:
            continue
        children = [int(number) for number in text.split()]
        found += children
        waiting += children
    return found


def last_line(errors: str) -> str:
    """Return the last message of a training; torchrun adds a report of its own about the processes that failed."""
    lines = errors.strip().splitlines() or [""]
    return next((line for line in reversed(lines) if " ERROR " in line or line.startswith("error:")), lines[-1])


def differences(reference: Path, work: Path) -> list[str]:
    """Return what is not the same in two finished trainings."""
    found = []
    for name in ("model/crash.pt", "model/crash_best.pt"):
        a, b = (read_checkpoint(folder / name) for folder in (reference, work))
        for key in ("model_state", "average_state", "optimizer_state", "rng"):
            if not same(a[key], b[key]):
                found.append(f"{name}: {key}")
        if not same(*(without_time(c["progress"]) for c in (a, b))):
            found.append(f"{name}: progress")
    for name, key in (("log/crash.batches.csv", "events_per_second"), ("log/crash.epochs.csv", "train_per_second")):
        tables = []
        for folder in (reference, work):
            with open(folder / name, encoding="utf-8") as file:
                tables.append([{k: v for k, v in row.items() if k != key} for row in csv.DictReader(file)])
        if tables[0] != tables[1]:
            found.append(name)
    left = [str(path) for path in work.rglob(".*") if path.is_file() and path.suffix != ".lock"]
    return found + [f"left over: {path}" for path in left]


def without_time(progress: dict) -> dict:
    """Return the progress of a training without its speed."""
    history = [{k: v for k, v in row.items() if k != "train_per_second"} for row in progress["history"]]
    return {k: v for k, v in progress.items() if k != "seconds"} | {"history": history}


def same(a, b) -> bool:
    """Whether two nested structures of tensors and plain values are bitwise identical; nan equals nan."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def killed(case: Case, reference: Path, duration: float, work: Path, most: int) -> tuple[int, list[str]]:
    """Kill a training at most `most` times, and resume it, until it has finished; return kills and differences."""
    kills = 0
    while True:
        after = random.uniform(0, duration) if kills < most else None
        code, _, errors = run(case.resumed(work), after)
        if code is None and after is not None:
            kills += 1
            continue
        if code != 0:
            (work / "stderr.txt").write_text(errors, encoding="utf-8")
            return kills, [f"exit status {code}: {last_line(errors)}"]
        return kills, differences(reference, work)


def filled(case: Case, reference: Path, duration: float, work: Path) -> tuple[str, list[str]]:
    """Fill the disk of a training at a random moment; return how it ended, and what is wrong."""
    disk = work / "disk"
    disk.mkdir(parents=True)
    moment = random.uniform(0.2, 1.0) * duration
    fill = f"(sleep {moment:.2f}; cat /dev/zero > {disk}/filling 2> /dev/null) & "
    shell = (
        f'mount -t tmpfs -o size=300m none {disk} && {{ {fill} "$@"; code=$?; kill $! 2> /dev/null; '
        f"rm -f {disk}/filling; cp -r {disk} {work}/kept; exit $code; }}"
    )
    code, _, errors = run(["unshare", "-rm", "sh", "-c", shell, "sh", *case.command(disk)])
    lines = errors.strip().splitlines()
    wrong = [line for line in lines if line.startswith("Traceback")] if case.way != "2 processes" else []
    kept = work / "kept"
    finished = sum("INFO" in line and " epoch " in line and ": lr" in line for line in lines)
    last = kept / "model/crash.pt"
    epochs = len(read_checkpoint(last)["progress"]["history"]) if last.exists() else 0
    if epochs < finished:
        wrong.append(f"{finished} epochs were reported, {epochs} are in the checkpoint")
    if code not in (0, 1, 3) or (code == 1 and "full" not in last_line(errors)):
        wrong.append(f"exit status {code}: {last_line(errors)}")
    again, _, errors = run(case.resumed(kept))
    wrong += differences(reference, kept) if again == 0 else [f"resumed: {last_line(errors)}"]
    return f"exit status {code} after {finished} epochs", wrong


def main() -> None:
    """Run the campaign; exit with status 1 if anything was lost."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="number of kills (default: %(default)s)")
    parser.add_argument("--disks", type=int, default=20, help="number of full disks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments (default: %(default)s)")
    args = parser.parse_args()
    random.seed(args.seed)
    cases = [Case(script, way) for script in SCRIPTS for way in WAYS]
    failures, kills, trainings, disks = 0, dict.fromkeys(cases, 0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        references: dict[Case, tuple[Path, float]] = {}
        while sum(kills.values()) < args.kills or disks < args.disks:
            case = min(cases, key=lambda c: kills[c]) if sum(kills.values()) < args.kills else cases[disks % len(cases)]
            if case not in references:
                path = work / f"reference{len(references)}"
                code, duration, errors = run(case.command(path))
                if code:
                    sys.exit(f"{case}: {errors}")
                references[case] = (path, duration)
            here = work / "here"
            if sum(kills.values()) < args.kills:
                number, wrong = killed(case, *references[case], here, min(6, args.kills - sum(kills.values())))
                kills[case] += number
                trainings += 1
                text = f"{number} kills"
            else:
                ended, wrong = filled(case, *references[case], here)
                disks += 1
                text = f"full disk, {ended}"
            failures += bool(wrong)
            print(f"{case.script}, {case.way}: {text}: {'; '.join(wrong) or 'bitwise identical'}", flush=True)
            if wrong:
                shutil.copytree(here, Path(tempfile.mkdtemp(prefix="crash.")) / "here")
            shutil.rmtree(here, ignore_errors=True)
    total = sum(kills.values())
    print(f"{total} kills in {trainings} trainings, {disks} full disks: {failures} trainings differ")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
