"""One run of a script: training or evaluation of a task, from settings to output files."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.writing import git_commit
from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError
from puffin.files import whole_file
from puffin.ops import library
from puffin.runs.outputs import EpochReports, Report, draw_run, evaluate_and_save
from puffin.runs.paths import RunPaths
from puffin.runs.start import Start
from puffin.settings.flags import command
from puffin.training import distributed
from puffin.training.logs import start_logging
from puffin.training.optimizers import make_optimizer
from puffin.training.schedules import WARM_FIRST_PERIOD, Schedule
from puffin.training.task import Task
from puffin.training.trainer import Trainer, TrainerOptions

log = logging.getLogger("puffin")

LR_EVENTS = 128  # with --lr-scale, learning rates are those for this number of events per step


@dataclass(frozen=True)
class Run:
    """A run whose settings are complete: what it starts from, its settings by group, its files."""

    start: Start
    settings: Any  # of the script, a ScriptSettings
    paths: RunPaths

    @classmethod
    def of(cls, start: Start) -> "Run":
        """Make a run from its start; InputError if settings contradict each other."""
        settings = start.flags.settings()
        if start.device.type == "mps" and settings.machine.dtype == "double":
            raise InputError("--double: not supported by --mps; use --float or --cpu")
        if settings.run.reproducible:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return cls(start, settings, RunPaths.of(settings.run))

    def changed(self, **values) -> "Run":
        """Return the same run with some settings changed, for example those that are computed from the data."""
        return Run.of(replace(self.start, flags=self.start.flags.changed(**values)))

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.start.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights and features."""
        return torch.float64 if self.settings.machine.dtype == "double" else torch.float32

    def loader(self, dataset, training: bool = False):
        """Return the loader of a split and its batches: shuffled for training, in file order for evaluation."""
        settings = self.settings
        shared = training or settings.machine.distribute_eval
        ranks = (distributed.rank(), distributed.num_ranks()) if shared else (0, 1)
        batches = EpochBatches(
            len(dataset),
            settings.optimisation.batch_size,
            training and settings.data.shuffle,
            settings.run.seed,
            *ranks,
            chunk_of=dataset.chunk_of_events(),
        )
        return make_loader(dataset, batches, settings.data.num_workers, self.device.type == "cuda"), batches

    def lr_factor(self) -> float:
        """Return the factor by which --lr-scale multiplies the learning rates."""
        optimisation = self.settings.optimisation
        events = optimisation.batch_size * optimisation.accumulate * distributed.num_ranks()
        return math.sqrt(events / LR_EVENTS) if optimisation.lr_scale == "sqrt" else 1.0

    def schedule(self, steps_per_epoch: int) -> Schedule:
        """Return the learning rate of each step."""
        o, factor = self.settings.optimisation, self.lr_factor()
        return Schedule(
            o.lr_decay_type,
            o.lr_init * factor,
            o.lr_final * factor,
            o.num_step or o.num_epoch * steps_per_epoch,
            warmup=o.warmup_steps or round(o.warmup * steps_per_epoch),
            cooldown=round(o.cooldown * steps_per_epoch),
            period=WARM_FIRST_PERIOD * steps_per_epoch,
            lr_start=o.lr_start * factor,
        )

    def trainer(self, task: Task, batches_per_epoch: int) -> Trainer:
        """Return the trainer that the settings describe."""
        settings = self.settings
        o, run, machine, reports = settings.optimisation, settings.run, settings.machine, settings.reports
        steps_per_epoch = math.ceil(batches_per_epoch / o.accumulate)
        options = TrainerOptions(
            num_epoch=math.ceil(o.num_step / steps_per_epoch) if o.num_step else o.num_epoch,
            num_step=o.num_step,
            clip=o.clip,
            amp="" if machine.amp == "off" else machine.amp,
            ema=o.ema,
            save_every=run.save_every,
            log_every=reports.log_every if reports.verbose else 0,
            valid_every=o.valid_every,
            accumulate=o.accumulate,
            save=run.save,
            distribute_eval=machine.distribute_eval,
        )
        try:
            schedule = self.schedule(steps_per_epoch)
            lr = o.lr_init * self.lr_factor()
            optimizer = make_optimizer(o.optim, task.parameter_groups(), lr, o.weight_decay)
            stored = self.start.flags.plain()
            files = (self.paths.checkpoint, self.paths.best)
            return Trainer(task, optimizer, schedule, options, self.device, *files, stored)
        except ValueError as error:
            raise InputError(str(error)) from error


def train_and_evaluate(
    run: Run,
    task: Task,
    datasets: Mapping[str, Any],
    draw: Callable | None = None,
    report: Report | None = None,
) -> list[dict]:
    """Train a task on the splits (or only evaluate it) and write every output; return one row of numbers per epoch.

    draw(file, history, outputs): draws a finished run from its rows and the test outputs of the best epoch.
    report(all rows so far): called after each epoch, once its checkpoint is written; if it raises, the run ends."""
    evaluating = run.start.evaluating
    loader, batches = (None, None) if evaluating else run.loader(datasets["train"], training=True)
    trainer = run.trainer(task, batches.batches_per_epoch if batches else 1)
    notes = load_checkpoint(run, trainer, datasets)
    open_log(run)  # all settings are checked before this line, which writes the first file
    if run.start.resuming:
        p, datadir = trainer.progress, run.settings.data.datadir
        log.info(f"resuming at epoch {p.epoch + 1}, batch {p.batch} (step {p.step}), with the data of {datadir}")
    for note in notes:
        log.warning(note)
    if run.settings.machine.compile:
        task.model.compile(dynamic=True)
    describe(task, datasets)
    if evaluating:
        evaluate_checkpoints(run, trainer, task, datasets)
        return []
    valid = run.loader(datasets["valid"])[0] if "valid" in datasets else None
    with EpochReports(run, report) as reports:
        history = trainer.fit(loader, batches, valid, reports.add)
    outputs = evaluate_and_save(run, trainer, task, datasets, "final")
    if distributed.from_main(run.settings.run.save and run.paths.best.exists()):
        best = Checkpoint.read(run.paths.best)
        best.load_into(task.model)
        trainer.average = None  # the weights of the checkpoint are already the averaged ones
        log.info(f"best epoch: {best.best_epoch}")
        outputs = evaluate_and_save(run, trainer, task, datasets, "best")
    draw_run(run, draw, history, outputs)
    return history


def load_checkpoint(run: Run, trainer: Trainer, datasets: Mapping[str, Any]) -> list[str]:
    """Load the weights, or when resuming the whole state of the training; return warnings for the log."""
    start, model = run.start, trainer.task.model
    notes = []
    if start.checkpoint is not None and (changes := start.flags.changes_from(start.checkpoint.settings, start.purpose)):
        notes.append(f"settings that differ from those of {start.checkpoint.path}: {', '.join(changes)}")
    if start.checkpoint is not None and not start.resuming:
        start.checkpoint.load_into(model)
    if distributed.rank() > 0:  # the same weights on every process, but different dropout
        torch.manual_seed(run.settings.run.seed + distributed.rank())
    if not start.resuming:
        return notes
    checkpoint = start.checkpoint
    trainer.load_state_dict(checkpoint.resumable())
    progress = trainer.progress
    changed = changes_of_best(start.flags.values, checkpoint.settings)
    if changed:
        notes.append(
            f"{', '.join(changed)}: earlier epochs cannot be compared; the best epoch is chosen from the next "
            "validation on"
        )
    if changed or checkpoint.path != run.paths.checkpoint:
        progress.best = {}  # judged by other settings, or a file of another run
    if progress.train_events not in (0, len(datasets["train"])):
        raise InputError(
            f"--load: expected the {progress.train_events} training events with which the run was started, got "
            f"{len(datasets['train'])}; give the same --datadir and --num-train, or start a new run from its weights: "
            f"--loadfile {checkpoint.path} without --load, with another --prefix"
        )
    if checkpoint.num_processes != distributed.num_ranks():
        notes.append(
            f"the run was on {checkpoint.num_processes} process(es), now on {distributed.num_ranks()}: it continues, "
            "but is not bitwise identical"
        )
    return notes


def changes_of_best(values: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return the changed flags of a resumed run that affect which epoch is the best."""
    names = ["best_by", "weights_key", "num_valid"] + ["loss", "class_weights"] * (values["best_by"] == "loss")
    return [
        f"--{name.replace('_', '-')} {values[name]} instead of {stored[name]}"
        for name in names
        if name in values and name in stored and values[name] != stored[name]
    ]


def open_log(run: Run) -> None:
    """Open the log file. A new run first lists and deletes the files of an earlier run with the same prefix."""
    if not distributed.is_main():
        return
    settings, paths, start = run.settings, run.paths, run.start
    earlier = [] if start.resuming or start.evaluating else paths.of_earlier_run()
    for flag in ("loadfile", "pretrained"):
        source = start.flags.values.get(flag, "")
        if source and any(path.samefile(source) for path in earlier):
            raise InputError(
                f"--{flag} {source} belongs to the run '{paths.prefix}' that would be replaced; choose another --prefix"
            )
    if earlier:
        log.warning(
            f"replacing {len(earlier)} files of an earlier run '{paths.prefix}' (resume it with --load): "
            f"{', '.join(map(str, earlier))}"
        )
        for path in earlier:
            path.unlink(missing_ok=True)
    start_logging(settings.reports.log_level, paths.log, append=start.resuming or start.evaluating)
    log.info(f"command: {command()}")
    ranks, batch_size = distributed.num_ranks(), settings.optimisation.batch_size
    if ranks > 1:
        log.info(
            f"{ranks} processes with minibatches of {batch_size}: {ranks * batch_size} events per global minibatch"
        )
    log.info(
        f"commit {git_commit() or 'unknown'}, PyTorch {torch.__version__}, {run.device}, {settings.machine.dtype}, "
        f"{torch.get_num_threads()} threads, seed {settings.run.seed}"
    )
    preset = yaml.safe_dump(start.flags.preset(of_run=True), sort_keys=True, default_flow_style=None, width=110)
    if not start.evaluating:
        with whole_file(paths.settings) as temporary:
            temporary.write_text(preset, encoding="utf-8")
    log.info("kernels: " + ", ".join(f"{name} {state}" for name, state in library.states().items()))
    log.debug("settings:\n" + preset)


def describe(task: Task, datasets: Mapping[str, Any]) -> None:
    """Log the size of the network and of the splits."""
    number = sum(p.numel() for p in task.model.parameters())
    events = ", ".join(f"{split} {len(dataset)}" for split, dataset in datasets.items())
    log.info(f"{type(task.model).__name__} with {number:,} parameters; events: {events}")


def evaluate_checkpoints(run: Run, trainer: Trainer, task: Task, datasets: Mapping[str, Any]) -> None:
    """Evaluate the checkpoint of --loadfile, or the final and the best one of the run."""
    missing = [split for split in run.settings.run.predict if split not in datasets]
    if missing:
        log.warning(f"--predict: found no {' and no '.join(missing)} events")
    named = [("final", run.paths.checkpoint), ("best", run.paths.best)]  # the pictures are of the last one
    first = run.start.checkpoint
    if run.settings.run.loadfile:
        named = [("best", first.path)]
    for weights, path in named:
        if path.exists():
            (first if path == first.path else Checkpoint.read(path)).load_into(task.model)
            trainer.average = None
            evaluate_and_save(run, trainer, task, datasets, weights)
