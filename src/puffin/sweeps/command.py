"""A sweep from its flags to its report: optuna_search.py without the table of tasks."""

import argparse
import importlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import optuna
import torch

from puffin.cli.arguments import Formatter, OnOff
from puffin.errors import InputError
from puffin.files import whole_file
from puffin.runs.run import RunPaths, check_plain_name, check_ranges
from puffin.settings.presets import given_flags, parse_arguments
from puffin.sweeps.report import Report
from puffin.sweeps.space import read_space
from puffin.sweeps.storage import check_url, copy_study, describe, open_storage, postgresql_url
from puffin.sweeps.study import PRUNERS, SAMPLERS, open_study
from puffin.sweeps.worker import Worker
from puffin.training import distributed
from puffin.training.logs import start_logging
from puffin.training.trainer import Interrupted

log = logging.getLogger("puffin")

# flags with which trials are the same wherever they run
_OF_THE_MACHINE = (
    "yaml",
    "workdir",
    "logdir",
    "modeldir",
    "predictdir",
    "device",
    "threads",
    "num_workers",
    "log_level",
)


@dataclass(frozen=True)
class SweepTask:
    """A script that can be swept.

    name: of its module, with make_parser() and main(argv, report) -> one dict per validation; directions: metrics that it
    takes for --best-by, all of them, +1 if higher is better, -1 if lower; metric: the one to optimise by default; arguments: those of
    every trial, where neither the command line nor a preset gives them."""

    name: str
    directions: dict[str, int]
    metric: str
    arguments: dict[str, int] = field(default_factory=dict)

    @property
    def script(self) -> ModuleType:
        return importlib.import_module(self.name)

    @property
    def file(self) -> Path:
        return Path(self.script.__file__)


def make_parser(tasks: dict[str, SweepTask], description: str) -> argparse.ArgumentParser:
    """The sweep's own flags; the others are those of the task's script."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=Formatter,
        allow_abbrev=False,
        epilog="Every flag of the task's script can be given too (python3 train_....py --help); it then holds for all trials.",
    )
    group = parser.add_argument_group("sweep")
    group.add_argument("--task", choices=tuple(tasks), required=True, help="what to train")
    group.add_argument(
        "--study-name",
        default="sweep",
        metavar="S",
        help="name of the study; its trials are runs with the prefix S-NUMBER. A study that exists is continued",
    )
    group.add_argument(
        "--num-trials", type=int, default=20, metavar="N", help="trials of the study, of all workers together"
    )
    group.add_argument("--timeout", type=float, default=None, metavar="SECONDS", help="begin no trial after this time")
    group.add_argument("--space", default="", metavar="FILE", help="search space (default: config/search/TASK.yaml)")
    group.add_argument(
        "--metric",
        nargs="+",
        default=[],
        metavar="M",
        help=f"validation metrics to optimise; several: the trials that none beats in all (default: {', '.join(f'{task.metric} of {name}' for name, task in tasks.items())})",
    )
    group.add_argument(
        "--direction",
        nargs="+",
        choices=("minimize", "maximize"),
        default=[],
        help="of each metric, where it is not known",
    )
    group.add_argument(
        "--sampler", choices=tuple(SAMPLERS), default="tpe", type=str.lower, help="how flags are proposed"
    )
    group.add_argument(
        "--sampler-seed", type=int, default=None, metavar="N", help="makes the proposals of a single worker repeatable"
    )
    group.add_argument(
        "--pruner",
        choices=tuple(PRUNERS),
        default=None,
        type=str.lower,
        help="when bad trials are stopped early (default: median, or none for several metrics)",
    )
    group.add_argument(
        "--optuna-test",
        action=OnOff,
        default=False,
        help="evaluate the best trial on the test set at the end, as the run S-best",
    )
    group.add_argument(
        "--report", action=OnOff, default=True, help="write the table, the best flags and the pictures at the end"
    )

    group = parser.add_argument_group("workers")
    group.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="workers on this machine")
    group.add_argument(
        "--heartbeat",
        type=float,
        default=30,
        metavar="SECONDS",
        help="time between signs of life; a worker that misses four is taken for dead, and its trial is queued again",
    )
    group.add_argument(
        "--patience", type=float, default=600, metavar="SECONDS", help="how long to wait for a database that went away"
    )

    group = parser.add_argument_group(
        "storage", "Passwords only from PGPASSWORD, a pgpass file or a service file: see docs/SWEEPS.md."
    )
    group.add_argument(
        "--storage",
        default="local",
        help="FILE.journal, FILE.db, or postgresql://USER@HOST:PORT/DATABASE (local: LOGDIR/S.journal)",
    )
    group.add_argument("--host", default=None, help="PostgreSQL server, instead of --storage")
    group.add_argument("--port", type=int, default=None, help="its port")
    group.add_argument("--user", default=None, help="its user")
    group.add_argument("--database", default="puffin", help="its database")
    group.add_argument("--copy-to", default="", metavar="STORAGE", help="only copy the study to this storage")
    group.add_argument("--copy-from", default="", metavar="STORAGE", help="only copy the study from this storage")
    return parser


def run_sweep(tasks: dict[str, SweepTask], program: str, description: str, argv: Sequence[str] | None) -> None:
    """Do what the flags say: copy a study, start workers, or be one; then report."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own, rest = make_parser(tasks, description).parse_known_args(argv)
    sweep = Sweep(own, rest, tasks[own.task])
    if own.copy_to or own.copy_from:
        sweep.copy()
        return
    sweep.open()
    try:
        if own.jobs > 1:
            sweep.start_workers([sys.executable, program, *argv])
        else:
            Worker(sweep.study, sweep.run_trial, sweep.num_trials, own.timeout, own.heartbeat).work()
    except (Interrupted, KeyboardInterrupt) as stop:
        number = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        log.warning("stopped; the trial that ran waits in the study: the same command goes on")
        sys.exit(128 + number)
    if own.report:
        sweep.report()


class Sweep:
    """The flags of a sweep, checked; its study, once it is open."""

    def __init__(self, own: argparse.Namespace, rest: list[str], task: SweepTask):
        self.own, self.fixed, self.task = own, rest, task
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        if distributed.num_ranks() > 1:
            raise InputError(
                "torchrun: a sweep is made of workers with one process each; start several with -j, or see slurm/sweep.sbatch"
            )
        self.args, named = parse_arguments(task.script.make_parser, rest)
        self.given = given_flags(task.script.make_parser, rest)
        settings = {name: getattr(self.args, name) for name in sorted(named) if name not in _OF_THE_MACHINE}
        self.settings = json.loads(json.dumps(settings, default=str))  # as they come back from the study
        for name in ("task", "prefix", "load", "test"):
            if name in self.given:
                raise InputError(
                    f"--{name if name != 'task' else 'eval'}: each trial is a training with a prefix of its own; leave the flag out"
                )
        for name, value in task.arguments.items():
            if name not in named:
                self.fixed = [*self.fixed, f"--{name.replace('_', '-')}={value}"]
                setattr(self.args, name, value)
        check_ranges(self.args)
        check_plain_name(own.study_name, "--study-name")
        self._check()
        paths = self.paths(own.study_name)
        self.logfile, self.logdir = paths.logdir / f"{own.study_name}.sweep.log", paths.logdir
        self._log_here()

    def paths(self, prefix: str | int) -> RunPaths:
        """The files of a trial, by its number, or of another run."""
        prefix = f"{self.own.study_name}-{prefix}" if isinstance(prefix, int) else prefix
        return RunPaths.of(argparse.Namespace(**{**vars(self.args), "prefix": prefix}))

    def _check(self) -> None:
        own = self.own
        for name, least in (("num_trials", 0), ("jobs", 1)):
            if getattr(own, name) < least:
                raise InputError(f"--{name.replace('_', '-')}: expected at least {least}, got {getattr(own, name)}")
        if own.heartbeat <= 0 or own.patience < 0:
            raise InputError("--heartbeat and --patience: expected positive numbers of seconds")
        if own.direction and len(own.direction) != len(own.metric or [0]):
            raise InputError(
                f"--direction: expected one for each of {len(own.metric or [0])} metrics, got {len(own.direction)}"
            )
        self.metrics = own.metric or [self.task.metric]
        known = self.task.directions
        for name in self.metrics:
            if not own.direction and name not in known:
                raise InputError(
                    f"--metric {name}: say with --direction whether to minimize or maximize it (known: {', '.join(known)})"
                )
        self.directions = own.direction or ["maximize" if known[m] > 0 else "minimize" for m in self.metrics]
        self.pruner = own.pruner or ("median" if len(self.metrics) == 1 else "none")
        if len(self.metrics) > 1 and self.pruner != "none":
            raise InputError(
                f"--pruner {self.pruner}: trials with several metrics cannot be compared before their end; use one metric, or none"
            )
        if "best_by" not in self.given and self.metrics[0] in known:
            self.fixed = [*self.fixed, f"--best-by={self.metrics[0]}"]
            self.args.best_by = self.metrics[0]
        network = [n for n in ("host", "port", "user") if getattr(own, n) is not None]
        if network and own.storage != "local":
            raise InputError(f"--{network[0]}: belongs into the URL of --storage; give one of both")
        if network:
            self.storage = postgresql_url(own.host, own.port, own.user, own.database)
        elif own.storage != "local":
            self.storage = check_url(own.storage, "--storage")
        else:
            self.storage = str(self.paths(own.study_name).logdir / f"{own.study_name}.journal")

    def _log_here(self) -> None:
        start_logging(self.args.log_level, self.logfile, append=True)

    def copy(self) -> None:
        """Copy the study to or from another storage."""
        own, here = self.own, self.storage
        flag = "--copy-to" if own.copy_to else "--copy-from"
        there = check_url(own.copy_to or own.copy_from, flag)
        source, target = (here, there) if own.copy_to else (there, here)
        number = copy_study(own.study_name, source, target)
        log.info(f"study '{own.study_name}': {number} trials copied from {describe(source)} to {describe(target)}")

    def open(self) -> None:
        """Open the study, or begin it."""
        own = self.own
        file = own.space or self.task.file.parent / "config" / "search" / f"{own.task}.yaml"
        self.space = read_space(file, self.task.script.make_parser, self.given, vars(self.args))
        self.num_trials = own.num_trials
        if own.sampler == "grid":
            self.num_trials = min(self.num_trials, _size(self.space.grid()))
        storage = open_storage(self.storage, own.patience)
        agreed = {"task": own.task, "metrics": self.metrics}
        self.study = open_study(
            own.study_name, storage, self.directions, PRUNERS[self.pruner](self._num_rows()), agreed
        )
        self._compare_with_earlier_trials()
        seed = own.sampler_seed  # one that begins later is not to repeat what was proposed
        try:
            self.study.sampler = SAMPLERS[own.sampler](
                self.space, self.num_trials, None if seed is None else seed + len(self.study.trials)
            )
        except ImportError as error:
            raise InputError(
                f"--sampler {own.sampler}: pip install 'cmaes==0.13.1' ({error.name} is missing)"
            ) from error
        log.info(
            f"study '{own.study_name}' in {describe(self.storage)}: {own.task}, {', '.join(f'{d} {m}' for d, m in zip(self.directions, self.metrics, strict=False))}; "
            f"varied: {', '.join(p.name for p in self.space.parameters)}; {own.sampler}, pruner {self.pruner}, {self.num_trials} trials"
        )

    def _compare_with_earlier_trials(self) -> None:
        """InputError where a new study would replace the runs of another; a warning where its trials have other flags."""
        trials = self.study.get_trials(deepcopy=False)
        there = self.paths(0).of_earlier_run()
        if not trials and there:
            raise InputError(
                f"study '{self.own.study_name}' is new in {describe(self.storage)}, but there are runs of one with that name ({there[0]}); "
                "continue that one with its --storage, copy it with --copy-from, or choose another --study-name"
            )
        earlier = next(
            (t.user_attrs["settings"] for t in reversed(trials) if "settings" in t.user_attrs), self.settings
        )
        names = [n for n in sorted({*earlier, *self.settings}) if earlier.get(n) != self.settings.get(n)]
        if names:
            said = "; ".join(
                ", ".join(f"{n}={s[n]}" if n in s else f"{n} not given" for n in names)
                for s in (earlier, self.settings)
            )
            log.warning(
                f"other flags than in earlier trials, with which the new ones are compared all the same (then; now): {said}"
            )

    # -- one trial -----------------------------------------------------------------------------------------------

    def run_trial(self, trial: optuna.Trial) -> list[float]:
        """Run the script with the flags of a trial; returns its metrics at the best epoch."""
        flags = [*self.space.sample(trial), *self.fixed]
        trial.set_user_attr("flags", flags)
        trial.set_user_attr("settings", self.settings)
        log.info(f"trial {trial.number}: {' '.join(flags[: len(flags) - len(self.fixed)])}")
        name = self.paths(trial.number).prefix
        reported = 0

        def report(history: list[dict]) -> None:
            nonlocal reported
            trial.set_user_attr("epochs", len(history))
            new = [(number, self._metrics(row)) for number, row in enumerate(history, 1) if number > reported]
            reported = len(history)
            if len(self.metrics) > 1:
                return  # Optuna takes intermediate values, and prunes, for one metric only
            measured = [(number, value) for number, (value,) in new if not math.isnan(value)]  # a row may have no probe
            for number, value in measured:
                trial.report(value, number)
            if measured and len(history) < self._num_rows() and trial.should_prune():
                raise optuna.TrialPruned

        try:
            history = self.task.script.main([*flags, f"--prefix={name}", *self._continued(trial)], report)
        finally:
            self._log_here()
        return self._metrics(self._best_epoch(history))

    def _num_rows(self) -> int:
        """Validations of a trial, as far as the flags tell."""
        args = self.args
        return math.ceil(args.num_step / args.valid_every) if args.num_step and args.valid_every else args.num_epoch

    def _continued(self, trial: optuna.Trial) -> list[str]:
        """Flags that continue the trial that this one repeats, where its checkpoint is within reach."""
        if "repeats" not in trial.user_attrs:
            return []
        old, new = self.paths(trial.user_attrs["repeats"]), self.paths(trial.number)
        if not old.checkpoint.exists():
            return []
        for source, target in ((old.best, new.best), (old.checkpoint, new.checkpoint)):
            if source.exists():
                with whole_file(target) as temporary:
                    shutil.copyfile(source, temporary)
        return ["--load", "--loadfile="]

    def _metrics(self, row: dict) -> list[float]:
        missing = [m for m in self.metrics if f"valid_{m}" not in row]
        if missing:
            there = [k.removeprefix("valid_") for k in row if k.startswith("valid_")]
            raise InputError(
                f"--metric {missing[0]}: not a metric of the validation data (has: {', '.join(there) or 'no validation data'})"
            )
        return [row[f"valid_{m}"] for m in self.metrics]

    def _best_epoch(self, history: list[dict]) -> dict:
        """The epoch that the script takes for the best."""
        if not history:
            raise InputError("nothing was trained")
        key, sign = f"valid_{self.args.best_by}", self.task.directions[self.args.best_by]
        return max(
            history, key=lambda row: sign * row[key] if row.get(key, float("nan")) == row.get(key) else -float("inf")
        )

    # -- several workers and the end -----------------------------------------------------------------------------

    def start_workers(self, command: list[str]) -> None:
        """Run --jobs workers, which share CPU cores and GPUs, and wait for them; signals are handed on to them once."""
        jobs, gpus = self.own.jobs, torch.cuda.device_count()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), **os.environ, "TQDM_DISABLE": "1"}
        workers: list[subprocess.Popen] = []
        stopped = []

        def hand_on(number, frame) -> None:
            stopped.append(number)
            for worker in workers:
                worker.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, hand_on)
        for k in range(jobs):
            seed = [] if self.own.sampler_seed is None else [f"--sampler-seed={self.own.sampler_seed + 10_007 * k}"]
            gpu = {"CUDA_VISIBLE_DEVICES": visible[k % gpus]} if gpus else {}
            line = [*command, "--jobs=1", "--no-report", "--no-optuna-test", *seed]
            workers.append(subprocess.Popen(line, env=environment | gpu, start_new_session=True))
        codes = [worker.wait() for worker in workers]
        if stopped:
            raise Interrupted(stopped[0], None)
        for worker, code in zip(workers, codes, strict=True):
            if code:
                log.error(f"worker {worker.pid} ended with {f'signal {-code}' if code < 0 else f'status {code}'}")
        if all(codes):
            raise InputError(f"all {jobs} workers failed; their messages are above, and in {self.logfile}")

    def report(self) -> None:
        """Table, best flags and pictures; with --optuna-test the best trial on the test set."""
        script = self.task.script
        best = Report(self.study, self.metrics, self.task.file.name, script.make_parser, self.logdir).write()
        if best is None or not self.own.optuna_test:
            return
        checkpoint = self.paths(best.number).best
        if not checkpoint.exists():
            raise InputError(f"--optuna-test: {checkpoint} is not on this machine; run there, or without --no-save")
        started = [
            flag
            for name, flag in (("pretrained", "--pretrained="), ("scratch", "--no-scratch"))
            if hasattr(self.args, name)
        ]
        script.main(
            [
                *best.user_attrs["flags"],
                *started,
                "--eval",
                f"--loadfile={checkpoint}",
                f"--prefix={self.own.study_name}-best",
            ]
        )
        self._log_here()


def _size(grid: dict[str, list]) -> int:
    size = 1
    for values in grid.values():
        size *= len(values)
    return size
