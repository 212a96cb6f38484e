"""What differs between the kinds of training: the `Task` that the trainer drives."""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from puffin.errors import NonFiniteError
from puffin.training import distributed


class StepOutput(NamedTuple):
    """Loss and outputs of one minibatch.

    loss: a scalar, the mean over `weight` items (any value if there are none); weight: number of items, or the sum of
    their weights; outputs: detached tensors with one row per event, among them `index` (B,), the number of
    each event in
    the data set. Keys that begin with `particle_` have `lengths` (B,) rows per event.
    """

    loss: Tensor
    weight: float
    outputs: dict[str, Tensor]


@dataclass
class Progress:
    """How far training has come; all of it is in every checkpoint."""

    epoch: int = 0
    batch: int = 0  # minibatches of this epoch that are done
    batch_events: int = 0  # events per minibatch, of all processes together
    train_events: int = 0  # events per epoch; 0 in checkpoints that do not store it
    step: int = 0
    loss_sum: float = 0.0  # over the items since the last row of the history
    items: float = 0.0  # or the sum of their weights
    batches: int = 0  # since the last row
    seconds: float = 0.0  # since the last row
    unclosed: int = 0  # epoch of a row whose validation was interrupted, 0: none
    best: dict = field(default_factory=dict)
    history: list = field(default_factory=list)

    def checked(self) -> "Progress":
        """Return the same; ValueError if a value is of another kind, as in a damaged file."""
        for name, initial in asdict(Progress()).items():
            value = getattr(self, name)
            kinds = (int, float) if isinstance(initial, float) else type(initial)
            if not isinstance(value, kinds) or (isinstance(value, int) and value < 0):
                raise ValueError(f"progress: {name} is {str(value)[:40]!r}")
        return self


@dataclass(frozen=True)
class Evaluation:
    """Which evaluation is made.

    split: train, valid or test; weights: "best" or "final" for those of a finished run, "" while it trains;
    stem: path of the prediction files without their endings, None if no predictions are saved; run_id: of the run whose
    weights they are."""

    split: str
    weights: str = ""
    stem: Path | None = None
    run_id: str = ""

    @property
    def during_training(self) -> bool:
        """Whether this is a validation between two steps."""
        return not self.weights

    def __str__(self) -> str:
        return f"{self.weights} {self.split}".strip()


def check_loss(loss_sum: float, evaluation: Evaluation) -> None:
    """Raise NonFiniteError if the loss of a validation during training is not finite: the network has diverged.

    loss_sum: over all items. The evaluations of a finished run go on, and report what can be computed."""
    if evaluation.during_training and not math.isfinite(loss_sum):
        raise NonFiniteError(
            f"{evaluation}: the loss is {loss_sum}, so the network has diverged; stopped. The last checkpoint is "
            "intact. Try a lower --lr-init or --clip, or look at the validation events"
        )


class Collector(Protocol):
    """Takes the outputs of an evaluation: a context that ends, after an error too, behind the last minibatch."""

    def __enter__(self) -> Any:
        """Open what is needed."""

    def __exit__(self, *error) -> None:
        """Close it."""

    def add(self, output: StepOutput) -> None:
        """Take the outputs of a minibatch. Processes that share an evaluation have the same number of minibatches."""

    def finish(self) -> tuple[dict[str, float] | None, dict[str, Tensor]]:
        """Return the metrics (None except on process 0), and the outputs that remain."""


class Task(ABC):
    """The kind of a training: model, loss, metrics, outputs to save.

    metric_directions: the metrics that can choose the best epoch, +1 if higher is better, -1 if lower.
    best_by: the one of them that does.
    counts: numbers by name that the log reports when they are not 0, such as events that were skipped.
    details: names of metrics that the log line of an epoch leaves out.
    """

    model: nn.Module
    metric_directions: dict[str, int]
    best_by: str = "loss"
    details: tuple[str, ...] = ()

    def __init__(self, model: nn.Module):
        self.model = model
        self.counts: dict[str, int] = {}

    @abstractmethod
    def step(self, batch) -> StepOutput:
        """Compute loss and outputs of one minibatch."""

    @abstractmethod
    def collector(self, evaluation: Evaluation, shared: bool) -> Collector:
        """Return what takes the outputs of an evaluation and computes the metrics; shared: by all processes."""

    def save_outputs(self, evaluation: Evaluation, outputs: dict[str, Tensor]) -> list[Path]:
        """Write the outputs of an evaluation to files that begin with its stem; return the files."""
        return []

    def why_missing(self, metrics: dict[str, float], outputs: dict[str, Tensor]) -> dict[str, str]:
        """Explain in a few words, by metric, why metrics of an evaluation are not numbers.

        metrics, outputs: from the collector's `finish`. A metric that this evaluation was not to compute is left
        out."""
        return {}

    def check_best_by(self, labels: Tensor | None, weights: Tensor | None, split: str) -> None:
        """Raise InputError if the metric that chooses the best epoch can only be nan on a split.

        labels, weights: of the events of the split, None if there are none. Call it before training, for the split
        that chooses the epoch."""
        return None

    def batch_metrics(self, output: StepOutput) -> dict[str, float]:
        """Compute the numbers of a training minibatch that cost next to nothing, for the table of steps."""
        return {}

    def after_update(self, done: float) -> None:
        """Do what follows an update of the weights; done: fraction of the run's steps that are done, 0 to 1."""
        return None

    def begin_evaluation(self, evaluation: Evaluation, progress: Progress) -> None:
        """Prepare for an evaluation."""
        return None


class InMemoryTask(Task):
    """A task whose outputs of a split fit into memory: its metrics are computed from all of them together."""

    @abstractmethod
    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """Compute a flat dict of metrics from the gathered outputs of a split and the mean loss."""

    def collector(self, evaluation: Evaluation, shared: bool) -> Collector:
        """Return a collector that keeps all outputs."""
        return GatheredOutputs(self, shared, evaluation)


class GatheredOutputs:
    """Keeps all outputs in memory until the task computes its metrics. shared: by all processes."""

    def __init__(self, task: InMemoryTask, shared: bool, evaluation: Evaluation):
        self.task, self.shared, self.evaluation = task, shared, evaluation
        self.loss_sum, self.items = 0.0, 0.0
        self.gathered: dict[str, list[Tensor]] = {}

    def __enter__(self) -> "GatheredOutputs":
        return self

    def __exit__(self, *error) -> None:
        """Nothing is open."""

    def add(self, output: StepOutput) -> None:
        """Keep the outputs of a minibatch on the CPU."""
        loss, weight, outputs = output
        self.loss_sum += loss.item() * weight if weight else 0.0
        self.items += weight
        for key, value in outputs.items():
            self.gathered.setdefault(key, []).append(value.cpu())

    def finish(self) -> tuple[dict[str, float] | None, dict[str, Tensor]]:
        """Return the metrics and all outputs, on process 0; the loss is nan without items.

        NonFiniteError as in `check_loss`."""
        outputs = {key: torch.cat(values) for key, values in self.gathered.items()}
        if self.shared:
            self.loss_sum, self.items = distributed.total(self.loss_sum, self.items)
            outputs = distributed.gather_events(outputs)
        check_loss(self.loss_sum, self.evaluation)
        if not distributed.is_main():
            return None, outputs
        return self.task.metrics(outputs, self.loss_sum / self.items if self.items else float("nan")), outputs
