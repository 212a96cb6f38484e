"""The one training loop, for every model.

A `Task` says what a model's loss, metrics and outputs are; the trainer knows nothing else of it.
"""

import contextlib
import itertools
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from puffin.checkpoints.writing import git_commit, load_checkpoint, restore_rng_state, rng_state, save_checkpoint
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError
from puffin.training import distributed
from puffin.training.schedules import Schedule

log = logging.getLogger("puffin")


class StepOutput(NamedTuple):
    """What a task makes of a batch.

    loss: a scalar, the mean over `weight` items (anything if there are none); outputs: rows to gather, detached; one
    of them is `index` (B,), the event of each row; keys that begin with `particle_` have `lengths` (B,) rows for each.
    """

    loss: Tensor
    weight: float  # items in the mean, or what their weights add up to
    outputs: dict[str, Tensor]


class Task(Protocol):
    """What differs between the scripts.

    A task may also have
    `counts` (dict of numbers by name): what the log is to tell if it is not 0, such as events that were left out;
    `details`: names of metrics that the log's line of an epoch leaves out;
    `begin_evaluation(name, progress)`, called before each evaluation;
    `collect(name, stem, shared)`: the Collector of an evaluation, for outputs too large to be kept; `metrics` is not needed then;
    `parameter_groups()`: what the optimizer gets (optimizers.py)."""

    model: nn.Module
    metric_directions: dict[str, int]  # metrics that can choose the best epoch: +1 higher is better, -1 lower

    def step(self, batch) -> StepOutput:
        """Loss and outputs of one batch."""

    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """A flat dict of numbers from the gathered outputs of a split."""


class Collector(Protocol):
    """What becomes of the outputs of an evaluation: a context, which ends, also by an error, after the last batch."""

    def add(self, output: StepOutput) -> None:
        """Take the outputs of a batch.  The processes that share an evaluation have the same number of batches."""

    def finish(self) -> tuple[dict[str, float] | None, dict[str, Tensor]]:
        """Metrics (None except on process 0), and what is left of the outputs."""


class GatheredOutputs:
    """All outputs in memory, until the task's metrics are made of them.  shared: by all processes."""

    def __init__(self, task: Task, shared: bool):
        self.task, self.shared = task, shared
        self.loss_sum, self.items, self.gathered = 0.0, 0, {}

    def __enter__(self) -> "GatheredOutputs":
        return self

    def __exit__(self, *error) -> None:
        """Nothing is open."""

    def add(self, output: StepOutput) -> None:
        loss, weight, outputs = output
        self.loss_sum += loss.item() * weight if weight else 0.0
        self.items += weight
        for key, value in outputs.items():
            self.gathered.setdefault(key, []).append(value.cpu())

    def finish(self) -> tuple[dict[str, float] | None, dict[str, Tensor]]:
        outputs = {key: torch.cat(values) for key, values in self.gathered.items()}
        if self.shared:
            self.loss_sum, self.items = distributed.total(self.loss_sum, self.items)
            outputs = distributed.gather_events(outputs)
        metrics = self.task.metrics(outputs, self.loss_sum / (self.items or 1)) if distributed.is_main() else None
        return metrics, outputs


@dataclass(frozen=True)
class TrainerOptions:
    """How to train.

    clip: largest gradient norm, 0 for none; amp: '' or 'bf16'; ema: decay of averaged weights, 0 for none;
    save_every: steps between checkpoints within an epoch, 0 for none; log_every: steps between log lines, 0 for
    none; num_step: the last step, within an epoch too, 0 for the end of the last epoch; valid_every: steps between
    validations, 0 for one at the end of each epoch; accumulate: batches of each process in a step; best_by: metric that chooses the best epoch; save: write checkpoints at all; distribute_eval: whether the
    processes share an evaluation, or process 0 evaluates alone.
    """

    num_epoch: int = 35
    clip: float = 0.0
    amp: str = ""
    ema: float = 0.0
    save_every: int = 0
    log_every: int = 0
    best_by: str = "loss"
    save: bool = True
    distribute_eval: bool = True
    num_step: int = 0
    valid_every: int = 0
    accumulate: int = 1


@dataclass
class Progress:
    """Where training stands; all of it is in every checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    batch_events: int = 0  # events of a batch, of all processes together
    train_events: int = 0  # events of an epoch; 0 in checkpoints that do not tell
    step: int = 0
    loss_sum: float = 0.0  # over the items since the last row of the history
    items: float = 0.0  # or their weights
    batches: int = 0  # since then
    seconds: float = 0.0  # since then
    best: dict = field(default_factory=dict)
    history: list = field(default_factory=list)


class NonFiniteError(RuntimeError):
    """The loss or its gradient became infinite or nan; no update was made."""


class Interrupted(Exception):
    """SIGTERM or SIGINT came; the state was saved.  `signum` tells which."""

    def __init__(self, signum: int, saved: Path | None):
        self.signum = signum
        where = (
            f"state saved to {saved}; run the same command with --load to go on"
            if saved
            else "nothing saved (--no-save)"
        )
        super().__init__(f"stopped by {signal.Signals(signum).name}: {where}")


class Trainer:
    """Trains `task.model` on `train` and watches `valid`.

    lr of a step is schedule(step).  checkpoint, best: file names.  settings: plain dict kept in the checkpoints.
    With several processes (distributed.py) each has a trainer, and calls the same methods in the same order.
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
    ):
        self.task, self.optimizer, self.schedule, self.options = task, optimizer, schedule, options
        self.device, self.dtype = device, next(task.model.parameters()).dtype
        self.checkpoint, self.best, self.settings = checkpoint, best, settings
        self.progress = Progress()
        self.commit = git_commit()
        self._step = task.step
        self._signal: int | None = None
        self.average = None
        if options.ema:
            self.average = torch.optim.swa_utils.AveragedModel(
                task.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.ema), use_buffers=False
            )
        if options.best_by not in task.metric_directions:
            raise InputError(f"--best-by: expected one of {', '.join(task.metric_directions)}, got {options.best_by}")

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Everything that the future of this run depends on; `rng`: one state for each process (on process 0)."""
        return {
            "model_state": self.task.model.state_dict(),
            "average_state": None if self.average is None else self.average.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "rng": distributed.to_main(rng_state()),
            "args": self.settings,
            "git_commit": self.commit,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from a checkpoint's content."""
        self.task.model.load_state_dict(state["model_state"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.average is not None and state["average_state"] is not None:
            self.average.load_state_dict(state["average_state"])
        self.progress = Progress(**state["progress"])
        states = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]
        if distributed.rank() < len(states):
            restore_rng_state(states[distributed.rank()])

    def save(self, path: Path) -> None:
        """Write a checkpoint (unless told not to save)."""
        if self.options.save:
            state = self.state_dict()
            if distributed.is_main():
                save_checkpoint(path, state)

    def use_weights_of(self, path: Path) -> int:
        """Take the weights of a checkpoint for evaluation, those that were averaged if there are any; returns its epoch."""
        state = load_checkpoint(path)
        self.task.model.load_state_dict(state["model_state"])
        if self.average is not None and state["average_state"] is not None:
            self.average.load_state_dict(state["average_state"])
            self.task.model.load_state_dict(
                dict(self.average.module.named_parameters()), strict=False
            )  # not the buffers
        progress = state["progress"]
        return progress["best"].get("epoch", progress["epoch"])

    # -- training ------------------------------------------------------------------------------------------------

    def fit(
        self, train: Iterable, batches: EpochBatches, valid: Iterable | None, report: Callable[[list[dict]], None]
    ) -> list[dict]:
        """Train to the end; returns one dict of numbers per epoch (or `valid_every` steps).  report(all so far) is
        called after each."""
        p = self.progress
        self._step = distributed.training_step(self.task)
        self._count_in(batches)
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not self._finished():
                batches.start(p.epoch, p.batch)
                self._train_epoch(train, batches.batches_per_epoch, lambda epoch: self._close_row(epoch, valid, report))
                if distributed.total(self._signal is not None)[0]:  # after an epoch without batches, too
                    self._stop()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
        return p.history

    def _count_in(self, batches: EpochBatches) -> None:
        """Count progress in batches of the present size: a run may go on with another number of processes."""
        p, size = self.progress, batches.batch_size * batches.num_ranks
        if p.batch_events not in (0, size):
            n = self.options.accumulate
            p.batch = p.batch * p.batch_events // size // n * n
            p.step = p.epoch * -(-batches.batches_per_epoch // n) + p.batch // n
            log.warning(
                f"batches of {size} events instead of {p.batch_events}: going on at batch {p.batch}, step {p.step}"
            )
        p.batch_events, p.train_events = size, batches.num_events
        if p.batch >= batches.batches_per_epoch:  # an old checkpoint of a run with more events
            p.epoch, p.batch = p.epoch + 1, 0

    def _finished(self) -> bool:
        p, options = self.progress, self.options
        return p.step >= options.num_step if options.num_step else p.epoch >= options.num_epoch

    def _row_is_due(self, ended: bool) -> bool:
        """Whether to validate and report after this step: every so many steps, or after an epoch; and at the end."""
        every = self.options.valid_every
        return (self.progress.step % every == 0 if every else ended) or self._finished()

    def _train_epoch(self, train: Iterable, num_batches: int, close_row: Callable[[int], None]) -> None:
        p, options = self.progress, self.options
        self.task.model.train()
        epoch = p.epoch + 1
        bar = tqdm(
            total=num_batches,
            initial=p.batch,
            desc=f"epoch {epoch}/{options.num_epoch}",
            unit="batch",
            disable=None,
            leave=False,
            dynamic_ncols=True,
        )
        clock, done_before = time.perf_counter(), p.seconds
        with bar:
            for group in _grouped(train, options.accumulate):
                loss, asked_to_stop = self._train_step(group)
                lr = self.optimizer.param_groups[0]["lr"]
                bar.set_postfix(loss=f"{loss:.4f}", lr=f"{lr:.2e}", refresh=False)
                bar.update(len(group))
                p.seconds = done_before + time.perf_counter() - clock
                number, ended = p.batch // options.accumulate, p.batch >= num_batches
                if options.log_every and number % options.log_every == 0:
                    log.info(f"epoch {epoch} batch {p.batch}/{num_batches}: loss {loss:.5f}, lr {lr:.3e}")
                if ended:
                    p.epoch, p.batch = p.epoch + 1, 0
                if self._row_is_due(ended):
                    close_row(epoch)
                    clock, done_before = time.perf_counter(), 0.0
                    asked_to_stop = distributed.total(self._signal is not None)[0]
                elif options.save_every and number % options.save_every == 0 and not asked_to_stop:
                    self.save(self.checkpoint)
                if asked_to_stop:
                    self._stop()
                if self._finished():
                    return

    def _train_step(self, group: list) -> tuple[float, bool]:
        """One update from the mean gradient of a few batches; returns the loss, and whether any process was asked to stop."""
        p = self.progress
        lr = self.schedule(p.step)
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr * settings.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, items, asked_to_stop = 0.0, 0.0, 0
        for batch in group:
            with self._autocast():
                loss, weight, _ = self._step(batch.to(self.device, self.dtype))
            loss, totals = distributed.global_loss(loss, weight, self._signal is not None)
            if len(group) == 1:
                loss.backward()
                loss_sum, items, asked_to_stop = totals()
            else:  # the sum over all items; divided by their number below
                part = totals()
                (loss * part[1]).backward()
                loss_sum, items, asked_to_stop = loss_sum + part[0], items + part[1], asked_to_stop or part[2]
        if len(group) > 1:
            torch._foreach_div_([q.grad for q in self.task.model.parameters() if q.grad is not None], items or 1.0)
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.options.clip or math.inf)
        value, size = loss_sum / (items or 1), norm.item()
        if not (math.isfinite(value) and math.isfinite(size)):
            raise NonFiniteError(
                f"step {p.step} (epoch {p.epoch + 1}, batch {p.batch}): loss {value}, gradient norm {size}; stopped before "
                f"the update. The last checkpoint is intact; try a lower --lr-init, --clip, or look at the batch's events"
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.task.model)
        p.step += 1
        p.batch += len(group)
        p.batches += len(group)
        p.loss_sum += loss_sum
        p.items += items
        return value, bool(asked_to_stop)

    def _close_row(self, epoch: int, valid: Iterable | None, report: Callable[[list[dict]], None]) -> None:
        """Validate, note, save and report."""
        p, options = self.progress, self.options
        distributed.share_buffers_(self.task.model)
        self._log_counts("training")
        row = {"epoch": epoch, "step": p.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {
            "train_loss": p.loss_sum / (p.items or 1),
            "train_per_second": p.batches * p.batch_events / max(p.seconds, 1e-9),
        }
        better = True
        if valid is not None:
            metrics, _ = self.evaluate(valid, "valid")
            row |= {f"valid_{k}": v for k, v in metrics.items()}
            value = metrics[options.best_by] * self.task.metric_directions[options.best_by]
            better = not p.best or value > p.best["value"] or math.isnan(p.best["value"])
            if better:
                p.best = {"epoch": epoch, "value": value, **metrics}
        p.history.append(row)
        p.loss_sum, p.items, p.batches, p.seconds = 0.0, 0.0, 0, 0.0
        if better:
            self.save(self.best)
        self.save(self.checkpoint)
        hidden = ("epoch", "step", *(f"valid_{name}" for name in getattr(self.task, "details", ())))
        shown = ", ".join(f"{k} {v:.5g}" for k, v in row.items() if k not in hidden and not math.isnan(v))
        step = f" step {p.step}" if options.valid_every or options.num_step else ""
        log.info(
            f"epoch {epoch}/{options.num_epoch}{step}: {shown}{'  *best*' if better and valid is not None else ''}"
        )
        with self.averaged_weights():  # of which it may make pictures
            report(p.history)

    def _log_counts(self, where: str, shared: bool = True) -> None:
        """Tell what the task has counted in all processes (`shared`), and begin anew."""
        counts = getattr(self.task, "counts", {})
        totals = distributed.total(*counts.values()) if shared and counts else list(counts.values())
        told = ", ".join(f"{total:.0f} {name}" for name, total in zip(counts, totals, strict=False) if total)
        if told:
            log.warning(f"{where}: {told}")
        counts.update(dict.fromkeys(counts, 0))

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """A context in which the model has the averaged weights, if there are any."""
        if self.average is None:
            yield
            return
        model = self.task.model
        own = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict({**own, **dict(self.average.module.named_parameters())})
        try:
            yield
        finally:
            model.load_state_dict(own)

    @torch.no_grad()
    def evaluate(
        self, loader: Iterable, name: str, stem: Path | None = None
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics and gathered outputs (on the CPU) over a split, with the averaged weights if there are any.

        stem: of the prediction files, for tasks that write them as they go.  Every process gets the metrics, process 0
        the outputs too; the others get {}."""
        shared = self.options.distribute_eval
        if not (shared or distributed.is_main()):
            return distributed.from_main(None), {}
        model = self.task.model
        was_training = model.training
        model.eval()
        if hasattr(self.task, "begin_evaluation"):
            self.task.begin_evaluation(name, self.progress)
        collector = (
            self.task.collect(name, stem, shared)
            if hasattr(self.task, "collect")
            else GatheredOutputs(self.task, shared)
        )
        try:
            with self.averaged_weights(), collector:
                for batch in tqdm(loader, desc=name, unit="batch", disable=None, leave=False, dynamic_ncols=True):
                    with self._autocast():
                        output = self.task.step(batch.to(self.device, self.dtype))
                    collector.add(output)
                metrics, outputs = collector.finish()
            metrics = distributed.from_main(metrics)
        finally:
            model.train(was_training)
        self._log_counts(name, shared)
        return metrics, outputs

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.amp == "bf16")

    # -- interruption --------------------------------------------------------------------------------------------

    def _on_signal(self, signum, frame) -> None:
        alone = distributed.num_ranks() == 1
        if self._signal is not None:
            if alone:  # asked twice: do not wait for the step
                raise KeyboardInterrupt
            return  # torchrun repeats the signals that a terminal or a batch system has sent already
        self._signal = signum
        log.warning(
            f"{signal.Signals(signum).name}: saving after this step{' (again to stop at once)' if alone else ''}"
        )

    def _stop(self) -> None:
        self.save(self.checkpoint)
        raise Interrupted(self._signal or signal.SIGTERM, self.checkpoint if self.options.save else None)


def _grouped(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last one may be shorter."""
    items = iter(items)
    while group := list(itertools.islice(items, size)):
        yield group
