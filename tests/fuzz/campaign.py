"""The fuzz campaign: scripts with odd flags, data, checkpoints, presets and outputs of earlier runs.

  python -m tests.fuzz.campaign --cases 1000

Each case must succeed, or end with one readable line that names the cause and a non-zero exit status. It must leave
no half-written file, and change nothing of another run.
"""

import argparse
import contextlib
import hashlib
import io
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch

import train_pelican_classifier
import train_pelican_cov
import train_pointmae
import train_segmentation
from puffin.checkpoints.reading import read_checkpoint
from puffin.runs.entry import DEBUG_HINT, run_script
from puffin.settings.clouds import PointSegmentationSettings, PretrainingSettings
from puffin.settings.jets import ClassifierSettings, RegressorSettings
from puffin.tables import read_table
from tests.fuzz.mutations import odd_checkpoint, odd_flags, odd_hdf5, odd_preset
from tests.fuzz.other_scripts import sweep_case, tool_case
from tests.runs.helpers import TINY_PELICAN, copy_jets, walk, write

ROOT = Path(__file__).resolve().parents[2]
JETS = [*TINY_PELICAN, *"--nobj 10 --batch-size 8 --num-epoch 1 --warmup 0 --cooldown 0 --no-plot".split()]
CLOUDS = (
    "--arch vit_tiny --depth 1 --group-size 8 --context 60 --min-points 50 --batch-size 2 --num-epoch 1 --no-plot "
    "--cpu --threads 1"
).split()
LONGEST_LINE = 700
OUTPUTS = (
    "log/case.log log/case.yaml log/case.epochs.csv log/case.batches.csv log/case.Best.metrics.csv log/case log "
    "log/case.Final.metrics.csv model/case.pt model/case_best.pt predict/case.best.test.pt model predict"
).split()


@dataclass(frozen=True)
class Script:
    """A training script: its entrance, its settings, flags that make it tiny, and its kind of data."""

    main: Callable
    schema: type
    flags: list[str]
    data: str


SCRIPTS = {
    "classifier": Script(train_pelican_classifier.main, ClassifierSettings, JETS, "jets"),
    "regressor": Script(train_pelican_cov.main, RegressorSettings, [*JETS, "--target", "truth_Pmu"], "jets"),
    "pretraining": Script(
        train_pointmae.main, PretrainingSettings, [*CLOUDS, "--decoder-depth", "1", "--no-probe"], "clouds"
    ),
    "segmentation": Script(train_segmentation.main, PointSegmentationSettings, CLOUDS, "clouds"),
}


class Campaign:
    """Valid data and runs, which cases copy and change. folder: where all of it lies."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.valid = {"jets": self._jets(), "clouds": self._clouds()}
        for name, script in SCRIPTS.items():
            flags = [*script.flags, "--datadir", str(self.valid[script.data]), "--prefix", "run"]
            code, errors = run(script.main, [*flags, "--workdir", str(self.folder / name)])
            assert code == 0, errors

    def _jets(self) -> Path:
        folder = self.folder / "valid-jets"
        folder.mkdir()
        for split, number in (("train", 24), ("valid", 12), ("test", 12)):
            sample = ROOT / f"data/sample_data/run12/{split}.h5"
            copy_jets(sample, folder / f"{split}.h5", ("Pmu", "is_signal", "truth_Pmu"), number)
        return folder

    def _clouds(self) -> Path:
        folder, rng = self.folder / "valid-clouds", np.random.default_rng(0)
        for split, number in (("train", 4), ("val", 3)):
            write(folder / split / "events_v2.h5", [walk(rng, n) for n in rng.integers(80, 160, number)])
        return folder


@dataclass
class Case:
    """One case. words: an error must name at least one of them; notes: what was done, for the report."""

    number: int
    kind: str
    script: str
    main: Callable
    argv: list[str]
    folder: Path
    words: list[str] = field(default_factory=list)

    def outcome(self) -> tuple[int | None, str]:
        """Run it; return the exit status, and what is wrong with how it ended ('' if nothing)."""
        before = _contents(self.folder)
        code, errors = run(self.main, self.argv)
        wrong = _wrong_ending(code, errors, self.words) or self._wrong_files(before, code)
        return code, wrong

    def _wrong_files(self, before: dict[Path, str], code: int | None) -> str:
        after = _contents(self.folder)
        lost = [
            path for path, content in before.items() if path.name.startswith("other") and after.get(path) != content
        ]
        if lost:
            return f"changed a file of another run: {lost[0].name}"
        if code == 2 and before != after:
            return "refused by the parser, and yet files changed"
        if Path("PWNED").exists():
            return "ran code from a file"
        for path in after.keys() - before.keys():
            if path.name.startswith(".") and path.suffix != ".lock":
                return f"left a temporary file: {path.name}"
            with contextlib.suppress(UnicodeDecodeError):
                problem = _unreadable(path)
                if problem:
                    return f"{path.name}: {problem}"
        return ""


def make_case(campaign: Campaign, number: int, seed: int) -> Case:
    """Make a case from its number."""
    rng = random.Random(seed * 1_000_003 + number)
    name = rng.choice(list(SCRIPTS))
    script = SCRIPTS[name]
    folder = campaign.folder / "case"
    shutil.rmtree(folder, ignore_errors=True)
    data = folder / "data"
    shutil.copytree(campaign.valid[script.data], data)
    for path in ("log/other.log", "log/other.Best.metrics.csv", "model/other.pt", "predict/other.best.test.pt"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("precious")
    argv = [*script.flags, "--datadir", str(data), "--workdir", str(folder), "--prefix", "case"]
    case = Case(number, rng.choice(list(KINDS)), name, script.main, argv, folder)
    KINDS[case.kind](rng, campaign, case)
    return case


def _flags(rng: random.Random, campaign: Campaign, case: Case) -> None:
    flags, case.words = odd_flags(rng, SCRIPTS[case.script].schema)
    case.argv += flags


def _data(rng: random.Random, campaign: Campaign, case: Case) -> None:
    path = rng.choice(sorted(case.folder.glob("data/**/*.h5")))
    case.words = odd_hdf5(rng, path)
    if rng.random() < 0.3 and SCRIPTS[case.script].data == "jets":
        case.argv.append("--no-RAMdataset")


def _checkpoint(rng: random.Random, campaign: Campaign, case: Case) -> None:
    """Evaluate, resume or fine-tune from a changed checkpoint, or from one of another script."""
    source = rng.choice([case.script] * 5 + list(SCRIPTS))
    for name in ("run.pt", "run_best.pt"):
        target = case.folder / "model" / name.replace("run", "case")
        shutil.copy(campaign.folder / source / "model" / name, target)
    path = case.folder / "model" / rng.choice(("case.pt", "case_best.pt"))
    case.words = [path.name, "--load", "--loadfile", "--pretrained", str(case.folder / "model")]
    if rng.random() < 0.9:
        case.words += odd_checkpoint(rng, path)
    short = ["--cpu", "--datadir", str(case.folder / "data"), "--workdir", str(case.folder), "--prefix", "case"]
    short += ["--min-points", "50"] * (SCRIPTS[case.script].data == "clouds")
    further = ["--loadfile", str(path)] if rng.random() < 0.5 else []
    way = rng.choice(("--eval", "--load", ""))
    if case.script == "segmentation" and rng.random() < 0.3:
        case.argv += ["--pretrained", str(path)]
    elif way:
        case.argv = [*short, way, *further]
        if way == "--load":
            case.argv += ["--num-epoch", "2"]
    else:
        case.argv = [*case.argv, "--prefix", "new", "--loadfile", str(path)]


def _preset(rng: random.Random, campaign: Campaign, case: Case) -> None:
    path = case.folder / "odd.yaml"
    case.words = odd_preset(rng, path, SCRIPTS[case.script].schema)
    case.argv += ["--yaml", str(path)]


def _outputs(rng: random.Random, campaign: Campaign, case: Case) -> None:
    """Something else lies where the run will write."""
    name = rng.choice(OUTPUTS)
    path = case.folder / name
    case.words = [path.name, "--logdir", "--modeldir", "--predictdir"]
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("a file")
    elif rng.random() < 0.4:
        path.mkdir()
    else:
        path.write_bytes(rng.choice((b"", b"\0\1\2\xff" * 30, b"a,b\n1\n", b'"open', b"prefix;loss\n1;2\n", b"\n\n")))
    case.argv += ["--summarize-csv", "all"]


def _tool(rng: random.Random, campaign: Campaign, case: Case) -> None:
    case.main, case.argv, case.words = tool_case(rng, case.folder)
    case.script = case.argv[0]


def _sweep(rng: random.Random, campaign: Campaign, case: Case) -> None:
    case.script = "sweep"
    case.main, case.argv, case.words = sweep_case(rng, case.folder, campaign.valid["jets"], JETS)


KINDS = {
    "flags": _flags,
    "data": _data,
    "checkpoint": _checkpoint,
    "preset": _preset,
    "outputs": _outputs,
    "tool": _tool,
    "sweep": _sweep,
}


def run(main: Callable, argv: list[str]) -> tuple[int | None, str]:
    """Run a script in this process; return its exit status and what it printed to stderr."""
    errors = io.StringIO()
    code: int | None = 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_script(main, argv)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) or stop.code is None else 1
            if isinstance(stop.code, str):
                errors.write(f"\n{stop.code}\n")
    return code or 0, errors.getvalue()


def _wrong_ending(code: int | None, errors: str, words: list[str]) -> str:
    lines = errors.strip().splitlines()
    if "Traceback" in errors or "Exception ignored" in errors:
        return f"a traceback: {lines[-1][:300]}"
    if not code:
        return ""
    last = lines[-1] if lines else ""
    if DEBUG_HINT in last or re.search(r"error: \w+(Error|Exception): ", last):
        return f"an error that nobody expected: {last}"
    if not last or len(last) > LONGEST_LINE:
        return f"no readable line: {last[:300]}"
    if not any(word and word in last for word in words):
        return f"names another cause ({', '.join(words[:4])}): {last}"
    return ""


def _contents(folder: Path) -> dict[Path, str]:
    """Return a checksum of every file outside of the data."""
    return {
        path: hashlib.sha1(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "data" not in path.relative_to(folder).parts
    }


def _unreadable(path: Path) -> str:
    try:
        if path.suffix == ".pt":
            read_checkpoint(path)
        elif path.suffix == ".csv":
            read_table(path)
        elif path.suffix == ".h5":
            h5py.File(path).close()
    except Exception as error:
        return f"is not readable: {error}"
    return ""


def main(argv=None) -> int:
    """Run cases and print those that are wrong; return their number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="number of cases (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all choices (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    endings: Counter = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        campaign = Campaign(Path(folder))
        for number in range(args.first, args.first + args.cases):
            case = make_case(campaign, number, args.seed)
            code, wrong = case.outcome()
            endings[case.kind, "success" if code == 0 else "refused"] += 1
            if wrong:
                failures += 1
                print(f"case {number}, {case.script}, {case.kind}: {wrong}\n    {' '.join(case.argv)}", flush=True)
    for (kind, ending), count in sorted(endings.items()):
        print(f"{kind}: {count} {ending}")
    print(f"{args.cases} cases, {failures} wrong")
    return failures


if __name__ == "__main__":
    sys.exit(min(main(), 1))
