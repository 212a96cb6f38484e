"""One run of a script: its settings, and what is made from them for any task."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError
from puffin.runs.paths import RunPaths
from puffin.runs.start import Start
from puffin.training import distributed
from puffin.training.optimizers import make_optimizer
from puffin.training.schedules import WARM_FIRST_PERIOD, Schedule
from puffin.training.task import Task
from puffin.training.trainer import Trainer, TrainerOptions

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

    def noting(self, *lines: str) -> "Run":
        """Return the same run with further lines for the log about its weights."""
        return replace(self, start=self.start.noting(*lines))

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.start.device

    @property
    def sources(self) -> list[str]:
        """The test files, or the folder of the events that are evaluated."""
        data = self.settings.data
        files = [data.testfile] if isinstance(data.testfile, str) else list(data.testfile)
        return [str(file) for file in files if file] or [data.datadir]

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

    def parameters(self, model: nn.Module) -> Iterable:
        """Return what the optimizer trains: of a fine-tuned network, groups with learning rates of their own."""
        finetuning = getattr(self.settings, "finetuning", None)
        if finetuning is None:
            return [weight for weight in model.parameters() if weight.requires_grad]
        return model.parameter_groups(finetuning.layer_decay, finetuning.lr_head_factor)

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
            optimizer = make_optimizer(o.optim, self.parameters(task.model), lr, o.weight_decay)
            stored = self.start.flags.plain()
            files = (self.paths.checkpoint, self.paths.best)
            return Trainer(task, optimizer, schedule, options, self.device, *files, stored, self.start.run_id)
        except ValueError as error:
            raise InputError(self.start.flags.explained(error)) from error
