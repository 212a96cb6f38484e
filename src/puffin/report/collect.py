"""Find the files of runs and sweeps by their names, and read what the runs did.

Nothing is written, so a run can be read while it trains.
"""

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from puffin.checkpoints.checkpoint import CLASSIFIER, REGRESSOR, SCRIPTS, SEGMENTATION, Checkpoint
from puffin.checkpoints.reading import read_checkpoint
from puffin.errors import InputError, nearest
from puffin.report.results import without_seed
from puffin.runs.paths import RunPaths
from puffin.settings.common import FOLDERS, RunSettings
from puffin.tables import read_records
from puffin.tasks.point_predictions import is_point_predictions
from puffin.tasks.saving import FORMATS, read_predictions

_SHOWN_NAMES = 20  # of the runs that there are, in an error
_SCRIPT = {script: network for network, script in SCRIPTS.items()}
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ (\w+)\s+(.*)")
_STUDY = ".trials.csv"
# settings that differ between all runs, or say only where files are
_NAMES = ("prefix", *FOLDERS)


@dataclass(frozen=True)
class LogBook:
    """What the log of a run says.

    commands: of the training and of later evaluations; commit, machine, network, events: "" if the log lacks them;
    started, updated: times of the first and last line; warnings: lines of warnings and errors."""

    commands: list[str] = field(default_factory=list)
    commit: str = ""
    machine: str = ""
    network: str = ""
    events: str = ""
    started: str = ""
    updated: str = ""
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "LogBook":
        """Read a log; an empty one if there is no file."""
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        lines = [found.groups() for line in text.splitlines() if (found := _LINE.match(line))]
        if not lines:
            return cls()
        messages = [message for _, _, message in lines]

        def first(pattern: str) -> tuple[str, ...]:
            return next((found.groups() for m in messages if (found := re.fullmatch(pattern, m))), ("", ""))

        commit, machine = first(r"commit (\S+), (.*)")
        network, events = first(r"(\w+ with [\d,]+ parameters); events: (.*)")
        commands = [m.removeprefix("command: ") for m in messages if m.startswith("command: ")]
        warnings = [f"{time} {message}" for time, level, message in lines if level in ("WARNING", "ERROR")]
        return cls(commands, commit, machine, network, events, lines[0][0], lines[-1][0], warnings)


@dataclass(frozen=True)
class Run:
    """A run by its name: what its files say, read when it is asked for the first time."""

    paths: RunPaths

    @property
    def name(self) -> str:
        """The prefix of all its files."""
        return self.paths.prefix

    @property
    def method(self) -> str:
        """The name without the ending -sSEED: runs of one method differ by their seed."""
        return without_seed(self.name)

    @cached_property
    def log(self) -> LogBook:
        """Its log."""
        return LogBook.read(self.paths.log)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings of the training by name; {} for a run that trained nothing."""
        if not self.paths.settings.is_file():
            return {}
        return yaml.safe_load(self.paths.settings.read_text(encoding="utf-8")) or {}

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """One row of numbers per validation or epoch, from its last checkpoint, or from its table of epochs."""
        if self.paths.epochs.is_file():
            return [{k: float(v) for k, v in row.items() if v} for row in read_records(self.paths.epochs)]
        if not self.paths.checkpoint.is_file():
            return []
        return read_checkpoint(self.paths.checkpoint).get("progress", {}).get("history", [])

    @cached_property
    def metrics(self) -> dict[str, dict[str, str]]:
        """The last row of the table of test metrics by weights (best, final), as text by column."""
        found = {}
        for weights in ("best", "final"):
            path = self.paths.table(weights)
            rows = read_records(path) if path.is_file() else []
            own = [row for row in rows if row["prefix"] == self.name]
            if own:
                found[weights] = own[-1]
        return found

    @cached_property
    def predictions(self) -> Path | None:
        """The predictions for test events, with the weights of the best epoch if there are such; of several
        evaluations the one that was written last."""
        literal = glob.escape(self.name)
        for weights in ("best", "final"):
            for pattern in (f"{literal}.{weights}.test", f"{literal}.{weights}.test.*"):
                found = [p for ending in FORMATS for p in self.paths.predictdir.glob(f"{pattern}.{ending}")]
                if found:
                    return max(found, key=lambda path: path.stat().st_mtime)
        return None

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint of its best epoch, else the last one."""
        return next((path for path in (self.paths.best, self.paths.checkpoint) if path.is_file()), None)

    @cached_property
    def network(self) -> str:
        """Which kind of network it is: CLASSIFIER, REGRESSOR, AUTOENCODER or SEGMENTATION; "" if nothing says so."""
        if self.checkpoint is not None:
            return Checkpoint.read(self.checkpoint).network
        script = Path(self.log.commands[0].split()[0]).name if self.log.commands else ""
        if script in _SCRIPT:
            return _SCRIPT[script]
        if self.predictions is None:
            return ""
        if is_point_predictions(self.predictions):
            return SEGMENTATION
        return CLASSIFIER if read_predictions(self.predictions)["predict"].ndim == 2 else REGRESSOR

    @property
    def pictures(self) -> list[Path]:
        """The pictures of events that the run drew."""
        return [path for path in self.paths.pictures_of_events() if path.suffix == ".png"]

    def file(self, ending: str) -> Path | None:
        """Return log/PREFIX.ENDING if there is such a file."""
        path = self.paths.logdir / f"{self.name}.{ending}"
        return path if path.is_file() else None


@dataclass(frozen=True)
class Sweep:
    """A sweep by the name of its study: the files log/NAME.* that optuna_search.py wrote."""

    name: str
    logdir: Path

    @property
    def trials(self) -> list[dict[str, str]]:
        """The rows of its table of trials."""
        return read_records(self.logdir / f"{self.name}{_STUDY}")

    @property
    def command(self) -> str:
        """The command that trains its best trial again; "" before a trial is complete."""
        path = self.logdir / f"{self.name}.best.yaml"
        return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") if path.is_file() else ""

    @property
    def pictures(self) -> list[Path]:
        """The pictures of its trials."""
        names = (self.logdir / f"{self.name}.{kind}.png" for kind in ("history", "importance", "parallel", "pareto"))
        return [path for path in names if path.is_file()]


def find(names: Sequence[str], folders: RunSettings) -> tuple[list[Run], list[Sweep]]:
    """Return the runs and the sweeps of these names, in their order.

    A name stands for the run or sweep itself, else for all runs NAME-sSEED. InputError for a name without files."""
    paths = RunPaths.of(folders)
    studies = {p.name.removesuffix(_STUDY) for p in paths.logdir.glob(f"*{_STUDY}")}
    known = sorted(_names_of_runs(paths) - studies)
    chosen: list[str] = []
    for name in names:
        found = [name] if name in studies or name in known else [k for k in known if without_seed(k) == name]
        if not found:
            raise InputError(_unknown(name, paths.logdir, [*known, *sorted(studies)]))
        chosen += [each for each in found if each not in chosen]
    runs = [Run(RunPaths(name, *paths.folders)) for name in chosen if name not in studies]
    return runs, [Sweep(name, paths.logdir) for name in chosen if name in studies]


def _names_of_runs(paths: RunPaths) -> set[str]:
    tables = [table for weights in ("Best", "Final") for table in paths.logdir.glob(f"*.{weights}.metrics.csv")]
    return {path.stem for path in paths.logdir.glob("*.log")} | {
        row["prefix"] for table in tables for row in read_records(table)
    }


def _unknown(name: str, folder: Path, known: Sequence[str]) -> str:
    if not known:
        return f"{folder}: no runs; choose the folder that contains log/ with --workdir"
    further = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    listed = ", ".join(known[:_SHOWN_NAMES]) + further
    return f"{name}: no such run in {folder}{nearest(name, map(without_seed, known))}; there are {listed}"


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs that differ by their seed."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings that differ between runs: by name, the value of each run, "" where it has no such setting."""
    names = sorted({name for run in runs for name in run.settings if name not in _NAMES})
    values = {name: [str(run.settings.get(name, "")) for run in runs] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def stamps(runs: Iterable[Run], sweeps: Iterable[Sweep]) -> dict[Path, int]:
    """Return when each file of the runs and sweeps was written [ns], to notice that one has changed; no pages."""
    files: list[Path] = []
    for run in runs:
        literal = glob.escape(run.name)
        files += [path for folder in run.paths.folders for path in folder.glob(f"{literal}[._]*")]
        files += [run.paths.table(weights) for weights in ("best", "final")]
    for sweep in sweeps:
        files += sweep.logdir.glob(f"{glob.escape(sweep.name)}.*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.suffix != ".html"}
