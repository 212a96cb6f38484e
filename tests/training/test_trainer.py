"""The training loop on a linear model: steps, rows of the history, accumulated gradients, averaged weights."""

import os
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError, Interrupted
from puffin.training.reports import Reports
from puffin.training.schedules import Schedule
from puffin.training.task import Evaluation, InMemoryTask, Progress, StepOutput
from puffin.training.trainer import Trainer, TrainerOptions
from puffin.training.update import Updater

NAN = float("nan")
DATA = torch.linspace(-1, 1, 11)  # eleven events


@dataclass
class Numbers:
    """A batch of events."""

    index: torch.Tensor

    def to(self, device, dtype):
        return self


class Task(InMemoryTask):
    """The loss (w x - 3 x)^2, averaged over the events of a batch."""

    metric_directions = {"loss": -1}

    def __init__(self):
        super().__init__(nn.Linear(1, 1).double())
        nn.init.zeros_(self.model.weight), nn.init.zeros_(self.model.bias)
        self.counts, self.evaluations = {"odd events": 0, "nothing": 0}, []

    def step(self, batch):
        x = DATA[batch.index].double()[:, None]
        self.counts["odd events"] += int((batch.index % 2).sum())
        return StepOutput((self.model(x) - 3 * x).square().mean(), len(x), {"index": batch.index})

    def begin_evaluation(self, evaluation, progress):
        self.evaluations.append((str(evaluation), progress.step, len(progress.history)))

    def metrics(self, outputs, loss):
        return {"loss": loss, "weight": float(self.model.weight), "training": self.model.training}


class Loader:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return (Numbers(torch.tensor(numbers)) for numbers in self.batches)


def make_trainer(tmp_path, task=None, **options):
    """Make a trainer with plain gradient descent."""
    task = task or Task()
    return Trainer(
        task,
        torch.optim.SGD(task.model.parameters(), lr=0.1),
        Schedule("flat", 0.1, 0.1, 100),
        TrainerOptions(**options),
        torch.device("cpu"),
        tmp_path / "last.pt",
        tmp_path / "best.pt",
        {},
    )


class Rows(Reports):
    """Notes the number of rows after each row."""

    def __init__(self):
        self.lengths = []

    def after_row(self, history):
        self.lengths.append(len(history))


def run(tmp_path, batch_size=2, **options):
    """Train without shuffling; return task and trainer."""
    trainer, batches = make_trainer(tmp_path, **options), EpochBatches(len(DATA), batch_size, shuffle=False)
    rows = trainer.reports = Rows()
    trainer.fit(Loader(batches), batches, Loader(EpochBatches(len(DATA), 4, shuffle=False)))
    assert rows.lengths == list(range(1, len(trainer.progress.history) + 1))
    return trainer.task, trainer


@pytest.mark.parametrize("batch_size, accumulate", [(1, 11), (2, 6), (4, 3), (3, 4)])
def test_accumulated_batches_are_one_batch(tmp_path, batch_size, accumulate):
    """Two epochs of one step each give the same weights as with all events in one batch; the last batch is smaller.

    Breaks if the mean is over batches instead of events, or the clipping acts on the sum."""
    whole, one = run(tmp_path, 11, num_epoch=2, clip=0.5)
    parts, many = run(tmp_path, batch_size, num_epoch=2, clip=0.5, accumulate=accumulate)
    assert many.progress.step == one.progress.step == 2
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=False):
        assert torch.allclose(a, b, rtol=1e-13)
    assert many.progress.history[0]["train_loss"] == pytest.approx(one.progress.history[0]["train_loss"], rel=1e-12)


def test_task_follows_every_update(tmp_path):
    """It gets the fraction of the steps that are done, at most 1: the schedule of this trainer has 100 steps."""
    task, done = Task(), []
    task.after_update = lambda fraction: done.append((fraction, float(task.model.weight.detach())))
    run(tmp_path, 1, task=task, num_epoch=10)
    fractions, weights = zip(*done, strict=True)
    assert fractions == tuple(min(step / 100, 1) for step in range(1, 111))
    assert weights[0] != 0 and weights[1] != weights[0]


def test_last_group_of_an_epoch_is_smaller(tmp_path):
    """Six batches in groups of four are two steps per epoch. Breaks if a group continues in the next epoch."""
    _, trainer = run(tmp_path, num_epoch=3, accumulate=4)
    assert (trainer.progress.step, trainer.progress.epoch, trainer.progress.batch) == (6, 3, 0)


@pytest.mark.parametrize(
    "options, steps, epochs",
    [
        ({"num_epoch": 2}, [6, 12], [1, 2]),
        ({"num_step": 9}, [6, 9], [1, 2]),
        ({"num_step": 9, "valid_every": 4}, [4, 8, 9], [1, 2, 2]),
        ({"num_epoch": 2, "valid_every": 4}, [4, 8, 12], [1, 2, 2]),
        ({"num_epoch": 2, "valid_every": 5}, [5, 10, 12], [1, 2, 2]),
        ({"num_step": 6}, [6], [1]),
    ],
)
def test_rows_of_the_history(tmp_path, options, steps, epochs):
    """There is a row after each epoch, or every N steps (also within an epoch), and one at the end.

    Breaks if validation leaves the model in evaluation mode."""
    task, trainer = run(tmp_path, **options)
    history = trainer.progress.history
    assert [row["step"] for row in history] == steps and [row["epoch"] for row in history] == epochs
    assert [(step, rows) for _, step, rows in task.evaluations] == [(step, k) for k, step in enumerate(steps)]
    assert task.model.training and not any(row["valid_training"] for row in history)


def test_place_beyond_the_epoch(tmp_path):
    """An old checkpoint of a run with more events, whose number it does not store.

    It is past the end of this epoch, so the next epoch is trained. Breaks if the loader is asked again and again for
    batches that it does not have."""
    trainer, batches = make_trainer(tmp_path, num_epoch=3), EpochBatches(len(DATA), 2, shuffle=False)
    trainer.progress = Progress(epoch=1, batch=6, batch_events=2, step=12)
    asked = []

    class Once(Loader):
        def __iter__(self):
            asked.append((self.batches.epoch, self.batches.first_batch))
            assert len(asked) == 1
            return super().__iter__()

    trainer.fit(Once(batches), batches, None)
    p = trainer.progress
    assert asked == [(2, 0)] and (p.epoch, p.batch, p.step, p.train_events) == (3, 0, 18, 11)


def test_signal_where_nothing_is_trained(tmp_path):
    """SIGTERM also ends a run whose loader has no batch, although the signal is normally checked in a step."""

    class Nothing:
        def __init__(self):
            self.asked = 0

        def __iter__(self):
            self.asked += 1
            assert self.asked < 3, "the signal was not seen"
            os.kill(os.getpid(), signal.SIGTERM) if self.asked == 1 else None
            return iter(())

    with pytest.raises(Interrupted):
        make_trainer(tmp_path).fit(Nothing(), EpochBatches(len(DATA), 2, shuffle=False), None)
    assert (tmp_path / "last.pt").exists()


def test_loss_of_a_row(tmp_path):
    """The mean is over the events since the last row: 10 and 1 of the 11.

    Breaks if a row includes the sums of the last one."""
    (whole,), (first, second) = (
        run(tmp_path, num_epoch=1, **more)[1].progress.history for more in ({}, {"valid_every": 5})
    )
    assert (10 * first["train_loss"] + second["train_loss"]) / 11 == pytest.approx(whole["train_loss"], rel=1e-12)


def test_counts_are_logged(tmp_path, monkeypatch):
    """The log has the counts of a task, except those that are 0; each row starts from 0 again."""
    lines = []
    monkeypatch.setattr("puffin.training.trainer.log.warning", lines.append)
    run(tmp_path, num_epoch=2)
    assert lines == ["training: odd events: 5", "valid: odd events: 5"] * 2


def test_metrics_see_the_averaged_weights(tmp_path):
    """With --ema, metrics such as a probe use the averaged weights; training continues with its own."""
    task, trainer = run(tmp_path, num_epoch=1, ema=0.9)
    seen, own = trainer.progress.history[0]["valid_weight"], task.model.weight.item()
    assert seen == pytest.approx(trainer.average.average.module.weight.item()) and abs(seen - own) > 0.01


def test_reports_and_the_end_see_the_averaged_weights(tmp_path):
    """Pictures use the weights that were evaluated. After an exception in a report, the model has its own weights."""
    task, trainer = run(tmp_path, num_epoch=1, ema=0.9)
    own, average, seen = task.model.weight.item(), trainer.average.average.module.weight.item(), []

    class Failing(Reports):
        def after_row(self, history):
            seen.append(task.model.weight.item())
            raise KeyError

    trainer.reports = Failing()
    with pytest.raises(KeyError):
        trainer._close_row(2, None)
    assert seen == [average] and task.model.weight.item() == own != average
    Checkpoint.read(trainer.best).load_into(task.model)
    assert task.model.weight.item() == average


def test_same_as_without_the_new_options(tmp_path):
    """With default options the result is bitwise identical to a plain loop of gradient steps."""
    task, _ = run(tmp_path, num_epoch=2)
    other = Task()
    optimizer = torch.optim.SGD(other.model.parameters(), lr=0.1)
    for _ in range(2):
        for numbers in EpochBatches(len(DATA), 2, shuffle=False):
            optimizer.zero_grad()
            other.step(Numbers(torch.tensor(numbers))).loss.backward()
            optimizer.step()
    assert torch.equal(task.model.weight, other.model.weight)


def test_learning_rates_of_groups(tmp_path):
    """In each step a group has the schedule's rate times its factor; with a factor of 1 nothing changes."""
    trainer = run(tmp_path, num_epoch=1)[1]
    weight, bias = trainer.task.model.parameters()
    groups = [{"params": [weight], "lr_scale": 1.0}, {"params": [bias], "lr_scale": 0.25}]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    Updater(trainer.task, optimizer, 0.0, trainer.device, "", lambda: False)(
        [Numbers(torch.arange(3))], 0.1, trainer.progress
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.025]


class Counting:
    """A collector that counts batches and stores how it ended."""

    def __init__(self):
        self.batches, self.ended = 0, None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.ended = kind

    def add(self, output):
        self.batches += 1
        if self.batches > 3:
            raise InputError("bad batch")

    def finish(self):
        return {"batches": self.batches}, {}


@pytest.mark.parametrize("size, ended", [(4, None), (2, InputError)])
def test_collector(tmp_path, size, ended):
    """A task can collect outputs itself; its collector is closed at the end and after an error.

    The model is back in its mode in both cases."""
    task, trainer = run(tmp_path, num_epoch=1)
    collector, asked = Counting(), []
    task.collector = lambda *arguments: asked.append(arguments) or collector
    task.model.train()
    loader = Loader(EpochBatches(len(DATA), size, shuffle=False))
    if ended is None:
        assert trainer.evaluate(loader, Evaluation("test", "best", tmp_path / "x")) == ({"batches": 3}, {})
    else:
        with pytest.raises(InputError):
            trainer.evaluate(loader, Evaluation("test", "best", tmp_path / "x"))
    assert (
        asked == [(Evaluation("test", "best", tmp_path / "x"), True)]
        and collector.ended is ended
        and task.model.training
    )


def test_unknown_metric(tmp_path):
    """The error comes before training starts."""
    with pytest.raises(InputError, match="--best-by: expected one of loss, got AUC"):
        task = Task()
        task.best_by = "AUC"
        make_trainer(tmp_path, task)


@pytest.mark.parametrize("values, best", [([NAN, 0.5, NAN, 0.7], 4), ([NAN, NAN, 0.5, 0.2], 3), ([NAN] * 4, None)])
def test_nan_is_never_the_best(tmp_path, values, best):
    """An epoch whose metric is not a number is not the best, whether it comes first, between others, or always.

    Breaks if nan counts as an improvement: the file of the best epoch then holds the last such epoch."""

    class Scores(Task):
        metric_directions = {"loss": -1, "score": 1}
        best_by = "score"

        def metrics(self, outputs, loss):
            return {"loss": loss, "score": values[len(self.evaluations) - 1]}

    trainer, batches = make_trainer(tmp_path, Scores(), num_epoch=4), EpochBatches(len(DATA), 2, shuffle=False)
    trainer.fit(Loader(batches), batches, Loader(batches))
    assert trainer.progress.best.get("epoch") == best
    assert (tmp_path / "last.pt").exists() and (tmp_path / "best.pt").exists() == (best is not None)
    if best:
        assert Checkpoint.read(trainer.best).best_epoch == best


def test_checkpoint_before_the_first_step(tmp_path):
    """A run that is killed in its first step can be resumed. Breaks if the first checkpoint comes after an epoch."""

    class Killed(Task):
        def step(self, batch):
            raise KeyError

    trainer, batches = make_trainer(tmp_path, Killed()), EpochBatches(len(DATA), 2, shuffle=False)
    with pytest.raises(KeyError):
        trainer.fit(Loader(batches), batches, None)
    again = make_trainer(tmp_path, num_epoch=2)
    again.load_state_dict(Checkpoint.read(tmp_path / "last.pt").resumable())
    again.fit(Loader(batches), batches, None)
    whole = run(tmp_path / "whole", num_epoch=2)[0]
    assert torch.equal(again.task.model.weight, whole.model.weight)


@pytest.mark.parametrize("when", [1, 2])
def test_signal_in_a_validation(tmp_path, when):
    """A signal in the first or second validation: the state is saved at once, and the resumed run makes the validation.

    Breaks if the run waits until a long validation ends, or if the resumed run has no row for that epoch."""

    class Signal(Loader):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if number == 1 and trainer.progress.unclosed == when:
                    os.kill(os.getpid(), signal.SIGTERM)
                assert number < 2 or trainer.progress.unclosed != when
                yield batch

    batches = EpochBatches(len(DATA), 2, shuffle=False)
    trainer = make_trainer(tmp_path, num_epoch=2)
    with pytest.raises(Interrupted):
        trainer.fit(Loader(batches), batches, Signal(batches))
    again = make_trainer(tmp_path, num_epoch=2)
    again.load_state_dict(Checkpoint.read(tmp_path / "last.pt").resumable())
    assert len(again.progress.history) == when - 1
    again.fit(Loader(batches), batches, Loader(batches))
    whole = make_trainer(tmp_path / "whole", num_epoch=2)
    whole.fit(Loader(batches), batches, Loader(batches))
    assert torch.equal(again.task.model.weight, whole.task.model.weight)
    drop = {"train_per_second"}
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in t.progress.history] for t in (again, whole)]
    assert rows[0] == rows[1] and again.progress.best == whole.progress.best
