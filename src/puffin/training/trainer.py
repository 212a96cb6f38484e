"""The one training loop, for every model. It knows nothing of a task but its base class."""

import contextlib
import itertools
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from puffin.checkpoints.writing import git_commit, restore_rng_state, rng_state, save_checkpoint
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError, Interrupted, NonFiniteError
from puffin.training import distributed
from puffin.training.schedules import Schedule
from puffin.training.stopping import StoppedWaiting, StopRequests
from puffin.training.task import Evaluation, Progress, Task

log = logging.getLogger("puffin")
Report = Callable[[list[dict]], None]


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
    checkpoints store. With several processes each has a trainer, and calls the same methods in the same order.
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
        self._stop_requests = StopRequests()
        self.average = None
        if options.ema:
            self.average = torch.optim.swa_utils.AveragedModel(
                task.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.ema), use_buffers=False
            )
        if task.best_by not in task.metric_directions:
            raise InputError(f"--best-by: expected one of {', '.join(task.metric_directions)}, got {task.best_by}")

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Return everything that the rest of this run depends on; `rng` has one state per process (on process 0)."""
        return {
            "model_state": self.task.model.state_dict(),
            "average_state": None if self.average is None else self.average.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "rng": distributed.to_main(rng_state()),
            "args": self.settings,
            "git_commit": self.commit,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the content of a checkpoint."""
        self.task.model.load_state_dict(state["model_state"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.average is not None and state["average_state"] is not None:
            self.average.load_state_dict(state["average_state"])
        self.progress = Progress(**state["progress"])
        states = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]
        if distributed.rank() < len(states):
            restore_rng_state(states[distributed.rank()])

    def save(self, path: Path) -> None:
        """Write a checkpoint, unless the options say not to."""
        if self.options.save:
            state = self.state_dict()
            if distributed.is_main():
                save_checkpoint(path, state)

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

    # -- training ------------------------------------------------------------------------------------------------

    def fit(self, train: Iterable, batches: EpochBatches, valid: Iterable | None, report: Report) -> list[dict]:
        """Train to the end; return one row of numbers per epoch (or per `valid_every` steps).

        report(all rows so far) is called after each row."""
        p = self.progress
        self._step = distributed.training_step(self.task)
        self._adapt_to(batches)
        with self._stop_requests:
            while not self._finished():
                batches.start(p.epoch, p.batch)
                with contextlib.suppress(StoppedWaiting):  # between two steps
                    self._train_epoch(
                        train, batches.batches_per_epoch, lambda epoch: self._close_row(epoch, valid, report)
                    )
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

    def _finished(self) -> bool:
        p, options = self.progress, self.options
        return p.step >= options.num_step if options.num_step else p.epoch >= options.num_epoch

    def _row_is_due(self, epoch_ended: bool) -> bool:
        """Whether to validate and report after this step."""
        every = self.options.valid_every
        return (self.progress.step % every == 0 if every else epoch_ended) or self._finished()

    def _train_epoch(self, train: Iterable, num_batches: int, close_row: Callable[[int], None]) -> None:
        """Train from the present minibatch to the end of the epoch, or of the run."""
        p, options = self.progress, self.options
        self.task.model.train()
        epoch = p.epoch + 1
        clock, seconds_before = time.perf_counter(), p.seconds
        with _progress_bar(f"epoch {epoch}/{options.num_epoch}", num_batches, p.batch) as bar:
            for group in _grouped(self._stop_requests.awaited(train), options.accumulate):
                loss, must_stop = self._train_step(group)
                self._show(bar, len(group), loss)
                p.seconds = seconds_before + time.perf_counter() - clock
                steps, epoch_ended = p.batch // options.accumulate, p.batch >= num_batches
                if options.log_every and steps % options.log_every == 0:
                    log.info(f"epoch {epoch} batch {p.batch}/{num_batches}: loss {loss:.5f}, lr {self._lr:.3e}")
                if epoch_ended:
                    p.epoch, p.batch = p.epoch + 1, 0
                if self._row_is_due(epoch_ended):
                    close_row(epoch)
                    clock, seconds_before = time.perf_counter(), 0.0
                    must_stop = self._any_process_must_stop()
                elif options.save_every and steps % options.save_every == 0 and not must_stop:
                    self.save(self.checkpoint)
                if must_stop:
                    self._stop()
                if self._finished():
                    return

    @property
    def _lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def _show(self, bar: tqdm, num_batches: int, loss: float) -> None:
        bar.set_postfix(loss=f"{loss:.4f}", lr=f"{self._lr:.2e}", refresh=False)
        bar.update(num_batches)

    def _train_step(self, group: list) -> tuple[float, bool]:
        """Make one update from the mean gradient of a few minibatches.

        Returns the loss, and whether any process was asked to stop."""
        p = self.progress
        lr = self.schedule(p.step)
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr * settings.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, items, must_stop = self._gradients(group)
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.options.clip or math.inf)
        value, size = loss_sum / (items or 1), norm.item()
        if not (math.isfinite(value) and math.isfinite(size)):
            raise NonFiniteError(
                f"step {p.step} (epoch {p.epoch + 1}, batch {p.batch}): loss {value}, gradient norm {size}; stopped "
                "before the update. The last checkpoint is intact. Try a lower --lr-init or --clip, or look at the "
                "events of this batch"
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.task.model)
        p.step += 1
        p.batch += len(group)
        p.batches += len(group)
        p.loss_sum += loss_sum
        p.items += items
        return value, must_stop

    def _gradients(self, group: list) -> tuple[float, float, bool]:
        """Set the gradients to those of the mean loss over all items of the group, of all processes.

        Returns the sum of the loss over the items, their number, and whether any process was asked to stop."""
        loss_sum, items, must_stop = 0.0, 0.0, 0.0
        for batch in group:
            with self._autocast():
                loss, weight, _ = self._step(batch.to(self.device, self.dtype))
            loss, totals = distributed.global_loss(loss, weight, self._stop_requests.requested)
            if len(group) == 1:
                loss.backward()
                loss_sum, items, must_stop = totals()
            else:  # the sum over all items, which is divided by their number below
                sums = totals()
                (loss * sums[1]).backward()
                loss_sum, items, must_stop = loss_sum + sums[0], items + sums[1], must_stop or sums[2]
        if len(group) > 1:
            gradients = [q.grad for q in self.task.model.parameters() if q.grad is not None]
            torch._foreach_div_(gradients, items or 1.0)
        return loss_sum, items, bool(must_stop)

    def _close_row(self, epoch: int, valid: Iterable | None, report: Report) -> None:
        """Validate, add a row to the history, save and report."""
        p, task = self.progress, self.task
        distributed.share_buffers_(task.model)
        self._log_counts("training")
        row = {"epoch": epoch, "step": p.step, "lr": self._lr, "train_loss": p.loss_sum / (p.items or 1)}
        row["train_per_second"] = p.batches * p.batch_events / max(p.seconds, 1e-9)
        is_best = True
        if valid is not None:
            metrics, _ = self.evaluate(valid, Evaluation("valid"))
            row |= {f"valid_{k}": v for k, v in metrics.items()}
            value = metrics[task.best_by] * task.metric_directions[task.best_by]
            is_best = not p.best or value > p.best["value"] or math.isnan(p.best["value"])
            if is_best:
                p.best = {"epoch": epoch, "value": value, **metrics}
        p.history.append(row)
        p.loss_sum, p.items, p.batches, p.seconds = 0.0, 0.0, 0, 0.0
        if is_best:
            self.save(self.best)
        self.save(self.checkpoint)
        self._log_row(row, is_best and valid is not None)
        with self.averaged_weights():  # of which it may make pictures
            report(p.history)

    def _log_row(self, row: dict, is_best: bool) -> None:
        options = self.options
        hidden = ("epoch", "step", *(f"valid_{name}" for name in self.task.details))
        shown = ", ".join(f"{k} {v:.5g}" for k, v in row.items() if k not in hidden and not math.isnan(v))
        step = f" step {row['step']}" if options.valid_every or options.num_step else ""
        log.info(f"epoch {row['epoch']}/{options.num_epoch}{step}: {shown}{'  *best*' if is_best else ''}")

    def _log_counts(self, where: str, shared: bool = True) -> None:
        """Log what the task has counted, in all processes if `shared`, and set the counts to 0."""
        counts = self.task.counts
        totals = distributed.total(*counts.values()) if shared and counts else list(counts.values())
        text = ", ".join(f"{total:.0f} {name}" for name, total in zip(counts, totals, strict=True) if total)
        if text:
            log.warning(f"{where}: {text}")
        counts.update(dict.fromkeys(counts, 0))

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
            with self.averaged_weights(), collector:
                for batch in tqdm(loader, desc=str(evaluation), unit="batch", disable=None, leave=False):
                    with self._autocast():
                        output = self.task.step(batch.to(self.device, self.dtype))
                    collector.add(output)
                metrics, outputs = collector.finish()
            metrics = distributed.from_main(metrics)
        finally:
            model.train(was_training)
        self._log_counts(str(evaluation), shared)
        return metrics, outputs

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.amp == "bf16")

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
