"""What a sweep does, from its flags: all checks that need no storage."""

import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from puffin.errors import InputError, missing_package
from puffin.runs.paths import RunPaths
from puffin.settings.common import RunSettings
from puffin.settings.flags import Flags, settings_of, with_presets
from puffin.settings.scripts import flags_of
from puffin.settings.sweep import TASKS, SweepSettings, SweepTask, sweep_parser
from puffin.sweeps.storage import check_url, postgresql_url

SAMPLER_PACKAGES = {"cmaes": ("cmaes",), "gp": ("scipy", "torch")}  # that Optuna imports when it proposes a trial


@dataclass(frozen=True)
class Plan:
    """A sweep whose flags have been checked.

    own: settings of the search; task: what is trained; script: its module; flags: its settings where trials do not vary
    them, with those that were given; fixed: the flags that every trial gets; storage: a file or URL."""

    own: SweepSettings
    task: SweepTask
    script: ModuleType
    flags: Flags
    fixed: tuple[str, ...]
    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    pruner: str
    storage: str

    def paths(self, trial: int | str) -> RunPaths:
        """Return the files of a trial by its number, or of another run by its prefix."""
        return _paths(self.flags, f"{self.own.study_name}-{trial}" if isinstance(trial, int) else trial)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds with which each trial is trained."""
        return tuple(self.flags["seed"] + k for k in range(self.own.seeds))

    def paths_of_seed(self, trial: int, seed: int) -> RunPaths:
        """Return the files of a trial for one of its seeds: for the first those of the trial, then S-NUMBER-sSEED."""
        paths = self.paths(trial)
        return paths if seed == self.seeds[0] else self.paths(f"{paths.prefix}-s{seed}")

    @property
    def file(self) -> Path:
        """The training script."""
        return Path(str(self.script.__file__))

    @property
    def space(self) -> str | Path:
        """The file with the search space."""
        return self.own.space or self.file.parent / "config" / "search" / f"{self.own.task}.yaml"

    @property
    def logdir(self) -> Path:
        """The folder of the log and of the report."""
        return self.paths(self.own.study_name).logdir

    @property
    def log(self) -> Path:
        """The log of the sweep."""
        return self.logdir / f"{self.own.study_name}.sweep.log"

    @property
    def compared_settings(self) -> dict[str, Any]:
        """The given settings that make a difference wherever a trial runs, as they come back from a study."""
        known, plain = settings_of(self.task.schema), self.flags.plain()
        names = sorted(name for name in self.flags.given if known[name].role.sweep != "machine")
        seeds = {"seeds": self.own.seeds} if self.own.seeds > 1 else {}
        return json.loads(json.dumps({name: plain[name] for name in names} | seeds, default=str))


def make_plan(argv: Sequence[str], description: str) -> Plan:
    """Parse the flags of a search and those of the training script; InputError if they do not go together."""
    typed, rest = sweep_parser(description).parse_known_args(argv)
    if not hasattr(typed, "task"):
        raise InputError(f"--task: expected one of {', '.join(TASKS)}, got none")
    own = SweepSettings(**vars(typed))
    task = TASKS[own.task]
    script = importlib.import_module(task.script)
    parser = script.make_parser()
    parser.further = tuple(sorted(flags_of(SweepSettings)))
    flags = with_presets(task.schema, vars(parser.parse_args(rest)))
    _check_given(flags)
    if own.seeds > 1 and flags["seed"] < 0:
        raise InputError(f"--seeds {own.seeds}: needs --seed of at least 0, the first of the seeds")
    check_packages(own.sampler, flags.values)
    metrics, directions = _objectives(own, task)
    added = {name: value for name, value in task.defaults.items() if name not in flags.given}
    if "best_by" not in flags.typed and metrics[0] in task.directions:
        added["best_by"] = metrics[0]
    flags = flags.changed(**added)
    fixed = (*rest, *(f"--{name.replace('_', '-')}={value}" for name, value in added.items()))
    return Plan(own, task, script, flags, fixed, metrics, directions, _pruner(own, metrics), _storage(own, flags))


def check_packages(sampler: str, values: Mapping[str, Any]) -> None:
    """Raise InputError if the search or its trials need a package that is not installed.

    Optuna and the pictures import theirs when they need them, and the trials would fail one by one."""
    needed = {f"--sampler {sampler}": SAMPLER_PACKAGES.get(sampler, ())}
    if values.get("plot_html"):
        needed["--plot-html"] = ("plotly",)
    for flag, names in needed.items():
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise InputError(f"{flag}: {missing_package(name)}")


def _check_given(flags: Flags) -> None:
    for name, entry in settings_of(flags.schema).items():
        if entry.role.sweep == "refused" and name in flags.typed:
            flag = "--eval" if name == "task" else entry.flag
            raise InputError(f"{flag}: every trial is a training with a prefix of its own; leave the flag out")


def _objectives(own: SweepSettings, task: SweepTask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return metrics and directions."""
    metrics = own.metric or (task.metric,)
    if own.direction and len(own.direction) != len(metrics):
        raise InputError(f"--direction: expected one for each of {len(metrics)} metrics, got {len(own.direction)}")
    for name in metrics:
        if not own.direction and name not in task.directions:
            raise InputError(
                f"--metric {name}: give --direction minimize or maximize (known without it: "
                f"{', '.join(task.directions)})"
            )
    known = tuple("maximize" if task.directions.get(name, 1) > 0 else "minimize" for name in metrics)
    return metrics, own.direction or known


def _pruner(own: SweepSettings, metrics: tuple[str, ...]) -> str:
    pruner = own.pruner or ("median" if len(metrics) == 1 else "none")
    if len(metrics) > 1 and pruner != "none":
        raise InputError(
            f"--pruner {pruner}: trials with several metrics cannot be compared before their end; use "
            "one metric, or none"
        )
    return pruner


def _storage(own: SweepSettings, flags: Flags) -> str:
    server = [name for name in ("host", "port", "user") if getattr(own, name) is not None]
    if server and own.storage != "local":
        raise InputError(f"--{server[0]}: is part of the URL of --storage; give only one of them")
    if server:
        return postgresql_url(own.host, own.port, own.user, own.database)
    if own.storage != "local":
        return check_url(own.storage, "--storage")
    return str(_paths(flags, own.study_name).logdir / f"{own.study_name}.journal")


def _paths(flags: Flags, prefix: str) -> RunPaths:
    return RunPaths.of(flags.changed(prefix=prefix).part(RunSettings))
