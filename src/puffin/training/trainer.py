"""The one training loop, for every model. It knows nothing of a task but its base class."""

import contextlib
import itertools
import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from puffin.checkpoints.writing import git_commit, restore_rng_state, rng_state, save_checkpoint
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError, Interrupted
from puffin.training import distributed
from puffin.training.averaging import WeightAverage
from puffin.training.messages import TrainingMessages
from puffin.training.pace import Pace
from puffin.training.reports import Reports
from puffin.training.schedules import Schedule
from puffin.training.stopping import StoppedWaiting, StopRequests
from puffin.training.task import Evaluation, Progress, Task
from puffin.training.update import Updater, autocast

log = logging.getLogger("puffin")


@dataclass(frozen=True)
class TrainerOptions:
    """How to train.

    num_step: the last step, within an epoch too (0: the end of the last epoch); clip: limit of the gradient norm (0:
    off); amp: "" or "bf16"; ema: decay of the averaged weights (0: off); save_every: steps between checkpoints within
    an epoch (0: none); log_every: steps between log lines (0: none); valid_every: steps between validations (0: one at
    the end of each epoch); accumulate: minibatches per step of each process; save: write checkpoints at all;
    distribute_eval: share evaluations among the processes, else process 0 evaluates alone.
    """

    num_epoch: int = 35
    num_step: int = 0
    clip: float = 0.0
    amp: str = ""
    ema: float = 0.0
    save_every: int = 0
    log_every: int = 0
    valid_every: int = 0
    accumulate: int = 1
    save: bool = True
    distribute_eval: bool = True


class Trainer:
    """Trains `task.model` on training data and watches the validation data.

    The learning rate of a step is schedule(step). checkpoint, best: file names. settings: plain dict that the
    checkpoints store; run_id: of the run that writes them. `reports` is told about steps and rows. With several
    processes each has a trainer, and calls the same methods in the same order.
    """

    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        options: TrainerOptions,
        device: torch.device,
        checkpoint: Path,
        best: Path,
        settings: dict,
        run_id: str = "",
    ):
        self.task, self.optimizer, self.schedule, self.options = task, optimizer, schedule, options
        self.device, self.dtype = device, next(task.model.parameters()).dtype
        self.checkpoint, self.best, self.settings, self.run_id = checkpoint, best, settings, run_id
        self.progress = Progress()
        self.commit = git_commit()
        self._stop_requests = StopRequests()
        self._messages = TrainingMessages(task, options.num_epoch, bool(options.valid_every or options.num_step))
        self.average = WeightAverage(task.model, options.ema)
        self.reports = Reports()
        if task.best_by not in task.metric_directions:
            raise InputError(f"--best-by: expected one of {', '.join(task.metric_directions)}, got {task.best_by}")

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Return everything that the rest of this run depends on; `rng` has one state per process (on process 0)."""
        return {
            "model_state": self.task.model.state_dict(),
            "average_state": self.average.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "rng": distributed.to_main(rng_state()),
            "args": self.settings,
            "git_commit": self.commit,
            "run_id": self.run_id,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the content of a checkpoint."""
        self.task.model.load_state_dict(state["model_state"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        for group in self.optimizer.param_groups:
            for name, value in group.items():
                if name != "params" and not isinstance(value, (bool, int, float, tuple, list, str, type(None))):
                    raise ValueError(f"optimizer: {name} is {str(value)[:40]!r}")
        self.average.load_state_dict(state["average_state"])
        self.progress = Progress(**state["progress"]).checked()
        states = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]
        if distributed.rank() < len(states):
            restore_rng_state(states[distributed.rank()])

    def save(self, path: Path) -> None:
        """Write a checkpoint, unless the options say not to."""
        if self.options.save:
            state = self.state_dict()
            if distributed.is_main():
                self.reports.before_checkpoint()
                save_checkpoint(path, state)

    # -- training ------------------------------------------------------------------------------------------------

    def fit(self, train: Iterable, batches: EpochBatches, valid: Iterable | None) -> list[dict]:
        """Train to the end; return one row of numbers per epoch (or per `valid_every` steps)."""
        p, options = self.progress, self.options
        requested = self._stop_requests
        update = Updater(self.task, self.optimizer, options.clip, self.device, options.amp, lambda: requested.requested)
        self._adapt_to(batches)
        with self._stop_requests:
            if not p.step:  # a run that is killed before its first checkpoint can be resumed, too
                self.save(self.checkpoint)
            while p.unclosed or not self.finished():
                with contextlib.suppress(StoppedWaiting):  # between two steps, or in a validation
                    if p.unclosed:
                        self._close_row(p.unclosed, valid)
                    else:
                        batches.start(p.epoch, p.batch)
                        self._train_epoch(update, train, batches.batches_per_epoch, valid)
                if self._any_process_must_stop():  # after an epoch without minibatches, too
                    self._stop()
        return p.history

    def _adapt_to(self, batches: EpochBatches) -> None:
        """Count progress in minibatches of the present size: a run may continue on another number of processes."""
        p, size = self.progress, batches.batch_size * batches.num_ranks
        if p.batch_events not in (0, size):
            n = self.options.accumulate
            p.batch = p.batch * p.batch_events // size // n * n
            p.step = p.epoch * -(-batches.batches_per_epoch // n) + p.batch // n
            log.warning(
                f"minibatches of {size} events instead of {p.batch_events}: continuing at minibatch {p.batch}, "
                f"step {p.step}"
            )
        p.batch_events, p.train_events = size, batches.num_events
        if p.batch >= batches.batches_per_epoch:  # an old checkpoint of a run with more events
            p.epoch, p.batch = p.epoch + 1, 0

    def finished(self) -> bool:
        """Whether the last step is done."""
        p, options = self.progress, self.options
        return p.step >= options.num_step if options.num_step else p.epoch >= options.num_epoch

    def _row_is_due(self, epoch_ended: bool) -> bool:
        """Whether to validate and report after this step."""
        every = self.options.valid_every
        return (self.progress.step % every == 0 if every else epoch_ended) or self.finished()

    def _train_epoch(self, update: Updater, train: Iterable, num_batches: int, valid: Iterable | None) -> None:
        """Train from the present minibatch to the end of the epoch, or of the run."""
        p, options = self.progress, self.options
        self.task.model.train()
        epoch = p.epoch + 1
        clock, seconds_before = time.perf_counter(), p.seconds
        with _progress_bar(f"epoch {epoch}/{options.num_epoch}", num_batches, p.batch) as bar:
            for group in _grouped(self._stop_requests.awaited(train), options.accumulate):
                done = update(group, self.schedule(p.step), p)
                self.task.after_update(min(p.step / self.schedule.num_steps, 1.0))
                self.average.update()
                must_stop = done.must_stop
                self._show(bar, len(group), done.loss)
                p.seconds = seconds_before + time.perf_counter() - clock
                self.reports.after_step(epoch, p, done, self._lr)
                steps, epoch_ended = p.batch // options.accumulate, p.batch >= num_batches
                if options.log_every and steps % options.log_every == 0:
                    log.info(f"epoch {epoch} batch {p.batch}/{num_batches}: loss {done.loss:.5f}, lr {self._lr:.3e}")
                if epoch_ended:
                    p.epoch, p.batch = p.epoch + 1, 0
                if self._row_is_due(epoch_ended):
                    self._close_row(epoch, valid)
                    clock, seconds_before = time.perf_counter(), 0.0
                    must_stop = self._any_process_must_stop()
                elif options.save_every and steps % options.save_every == 0 and not must_stop:
                    self.save(self.checkpoint)
                if must_stop:
                    self._stop()
                if self.finished():
                    return

    @property
    def _lr(self) -> float:
        group = self.optimizer.param_groups[0]
        return group["lr"] / group.get("lr_scale", 1.0)

    def _show(self, bar: tqdm, num_batches: int, loss: float) -> None:
        bar.set_postfix(loss=f"{loss:.4f}", lr=f"{self._lr:.2e}", refresh=False)
        bar.update(num_batches)

    def _close_row(self, epoch: int, valid: Iterable | None) -> None:
        """Validate, add a row to the history, save and report."""
        p, task = self.progress, self.task
        p.unclosed = epoch
        distributed.share_buffers_(task.model)
        self._messages.counts("training")
        row = {"epoch": epoch, "step": p.step, "lr": self._lr, "train_loss": p.loss_sum / (p.items or 1)}
        row["train_per_second"] = p.batches * p.batch_events / max(p.seconds, 1e-9)
        is_best = True
        if valid is not None:
            metrics, _ = self.evaluate(valid, Evaluation("valid"))
            row |= {f"valid_{k}": v for k, v in metrics.items()}
            value = metrics[task.best_by] * task.metric_directions[task.best_by]
            before = p.best.get("value", math.nan)
            is_best = not math.isnan(value) and (math.isnan(before) or value > before)
            if is_best:
                p.best = {"epoch": epoch, "value": value, **metrics}
        p.unclosed = 0
        p.history.append(row)
        p.loss_sum, p.items, p.batches, p.seconds = 0.0, 0.0, 0, 0.0
        if is_best:
            self.save(self.best)
        self.save(self.checkpoint)
        self._messages.row(row, is_best and valid is not None)
        with self.average.in_place():  # of which it may make pictures
            self.reports.after_row(p.history)

    # -- evaluation ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, loader: Iterable, evaluation: Evaluation) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Compute metrics and gathered outputs (on the CPU) of a split, with the averaged weights if there are any.

        Every process gets the metrics; process 0 gets the outputs too, the others {}."""
        shared = self.options.distribute_eval
        if not (shared or distributed.is_main()):
            return distributed.from_main(None), {}
        model = self.task.model
        was_training = model.training
        model.eval()
        self.task.begin_evaluation(evaluation, self.progress)
        collector = self.task.collector(evaluation, shared)
        try:
            with self.average.in_place(), collector:
                batches = self._stop_requests.awaited(loader) if evaluation.during_training else loader
                with Pace(str(evaluation), getattr(loader, "num_events", None), self.device) as pace:
                    for batch in batches:
                        with autocast(self.device, self.options.amp):
                            output = self.task.step(batch.to(self.device, self.dtype))
                        collector.add(output)
                        pace.add(len(output.outputs["index"]))
                if not evaluation.during_training:
                    log.info(pace.summary())
                metrics, outputs = collector.finish()
                self._messages.missing(evaluation, metrics, outputs)
            metrics = distributed.from_main(metrics)
        finally:
            model.train(was_training)
        self._messages.counts(str(evaluation), shared)
        return metrics, outputs

    # -- interruption --------------------------------------------------------------------------------------------

    def _any_process_must_stop(self) -> bool:
        return bool(distributed.total(self._stop_requests.requested)[0])

    def _stop(self) -> None:
        self.save(self.checkpoint)
        saved = self.checkpoint if self.options.save else None
        raise Interrupted(self._stop_requests.signum or signal.SIGTERM, saved)


def _progress_bar(text: str, total: int, initial: int) -> tqdm:
    options = {"unit": "batch", "disable": None, "leave": False, "dynamic_ncols": True}
    return tqdm(total=total, initial=initial, desc=text, **options)


def _grouped(items: Iterable, size: int) -> Iterator[list]:
    """Yield lists of `size` items; the last one may be shorter."""
    items = iter(items)
    while group := list(itertools.islice(items, size)):
        yield group
