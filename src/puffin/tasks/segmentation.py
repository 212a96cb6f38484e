"""Semantic segmentation of point clouds: every point gets a class."""

from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from puffin.data.augment import Augmentation
from puffin.data.packing import CloudBatch
from puffin.data.pilarnet import CloudDataset
from puffin.detector import PILARNET
from puffin.layers.all_reduce import all_reduce_sum
from puffin.losses.clouds import LossTerms
from puffin.metrics.segmentation import PER_CLASS, confusion_of, segmentation_metrics
from puffin.models.segmentation import SegmentationNetwork
from puffin.plots.curves import draw_confusion_page
from puffin.plots.style import draw_to
from puffin.settings.names import SEGMENTATION_METRICS
from puffin.tasks.missing import explained, refuse_best_by
from puffin.tasks.point_predictions import PointPredictions
from puffin.tasks.saving import save_table, stem_of
from puffin.training import distributed
from puffin.training.task import Evaluation, Progress, StepOutput, Task, check_loss

NO_TOKENS, DROPPED, BAD = (
    "events without any point after the cuts",
    "tokens beyond --context dropped",
    "bad events skipped",
)
_EVENTS = 64  # read together
TOO_SMALL = "events without labels, because they have fewer points than --min-points"


@dataclass(frozen=True)
class SegmentationOptions:
    """How to train and evaluate a segmentation.

    augmentations: what is done to training events, in this order; pictures: formats in which confusion matrices are
    drawn; checkpoints: the files with the "best" and the "final" weights, which are named in the predictions; best_by:
    metric that chooses the best epoch."""

    augmentations: tuple[Augmentation, ...] = ()
    pictures: tuple[str, ...] = ()
    checkpoints: dict[str, Path] = field(default_factory=dict)
    best_by: str = "loss"


class PointSegmentation(Task):
    """Losses on the class scores of points.

    loss: functions of sums over the points of a minibatch of all processes, which dice needs; its value for a split is
    that of the sums over all points. datasets: the splits by name, in which the events of predictions are found."""

    def __init__(
        self,
        model: SegmentationNetwork,
        loss: LossTerms,
        datasets: dict[str, CloudDataset],
        options: SegmentationOptions | None = None,
    ):
        super().__init__(model)
        self.loss, self.datasets = loss, datasets
        self.options = options or SegmentationOptions()
        self.best_by = self.options.best_by
        self.names = PILARNET.class_names[: model.config.num_classes]
        by_class = {f"{metric}_{name}": 1 for metric in PER_CLASS for name in self.names}
        self.metric_directions = SEGMENTATION_METRICS | by_class
        details = ("precision_", "recall_", "iou_")
        names = [name for name in self.metric_directions if name.startswith(details)]
        self.details = tuple(name for name in names if name != self.best_by)
        self.counts = {NO_TOKENS: 0, DROPPED: 0, BAD: 0, TOO_SMALL: 0}

    def step(self, batch: CloudBatch) -> StepOutput:
        """Loss over the points.

        Outputs, in evaluation only: index and lengths (B,), sums of the loss, and for each point particle_truth,
        particle_class, particle_probability (P, C) and, if the batch has them, particle_row."""
        model = self.model
        for augment in self.options.augmentations if model.training else ():
            batch = augment(batch)
        logits, dropped = model(batch.points, batch.lengths)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self.counts[NO_TOKENS] += int((batch.lengths == 0).sum())
        self.counts[DROPPED] += int(dropped.sum())
        self.counts[BAD] += batch.skipped
        sums = self.loss.sums(logits, batch.semantic)
        if model.training:
            return StepOutput(self.loss.total([all_reduce_sum(s) for s in sums]), len(logits), {})
        outputs = {
            "index": batch.index,
            "lengths": batch.lengths,
            "sums": torch.cat(sums),
            "particle_truth": batch.semantic,
            "particle_class": logits.argmax(1),
            "particle_probability": logits.softmax(1),
        }
        if batch.row is not None:
            outputs["particle_row"] = batch.row
        return StepOutput(self.loss.total(sums), len(logits), outputs)

    def begin_evaluation(self, evaluation: Evaluation, progress: Progress) -> None:
        """Count the events of the split that get no labels."""
        if not evaluation.during_training and distributed.is_main():
            self.counts[TOO_SMALL] += self.datasets[evaluation.split].too_small

    def collector(self, evaluation: Evaluation, shared: bool) -> "PointSums":
        """Return a collector that keeps sums, not points; points are written to <stem>.h5 minibatch by minibatch."""
        predictions, stem = None, evaluation.stem
        if stem is not None and distributed.is_main():
            checkpoint = self.options.checkpoints.get(evaluation.weights)
            predictions = PointPredictions(
                stem, self.datasets[evaluation.split], self.names, checkpoint, evaluation.run_id
            )
        return PointSums(self, predictions, evaluation, shared)

    def metrics(self, confusion: Tensor, sums: list[Tensor]) -> dict[str, float]:
        """Compute the CSV columns from the confusion matrix (C, C) and the sums of the loss over a split.

        The losses are nan if no point counts: there are none, or only points of classes with weight 0."""
        terms, losses = self.loss.values(sums), {"loss": float(self.loss.total(sums))}
        if len(terms) > 1:
            losses |= {f"loss_{name}": float(value) for name, value in terms.items()}
        if not self._counted(confusion).any():
            losses = dict.fromkeys(losses, float("nan"))
        return losses | segmentation_metrics(confusion.numpy(), self.names)

    def _counted(self, confusion: Tensor) -> Tensor:
        """Return for each class whether the loss counts some of its points, (C,) bool."""
        present = confusion.sum(1) > 0
        return present if self.loss.weight is None else present & (self.loss.weight.cpu() > 0)

    def why_missing(self, metrics: dict[str, float], outputs: dict[str, Tensor]) -> dict[str, str]:
        """Name the classes without points, and class weights that are 0 for all points."""
        if "confusion" not in outputs:
            return {}
        confusion = outputs["confusion"]
        if not confusion.any():
            return explained(metrics, dict.fromkeys(metrics, "no event has a point"))
        reasons = {}
        if not self._counted(confusion).any():
            reasons = dict.fromkeys(metrics, "the class weights of all points are 0")
        for metric, name in product(PER_CLASS, self.names):
            reasons[f"{metric}_{name}"] = f"no point is of class {name}, or predicted as such"
        return explained(metrics, reasons)

    def check_best_by(self, labels: Tensor | None, weights: Tensor | None, split: str) -> None:
        """Raise InputError if --best-by is a number of a class that no point of the split has.

        The classes are read from the split's data set, until a point of the class is found. Such a number would be 0
        or nan in every epoch."""
        wanted = [k for k, name in enumerate(self.names) if self.best_by in {f"{m}_{name}" for m in PER_CLASS}]
        if wanted and split in self.datasets and not has_class(self.datasets[split], wanted[0]):
            reason = f"no point of them is of class {self.names[wanted[0]]}"
            refuse_best_by(self.best_by, {self.best_by: reason}, split)

    def save_outputs(self, evaluation: Evaluation, outputs: dict[str, Tensor]) -> list[Path]:
        """Write <stem>_confusion.csv and, a picture of it; return the files, <stem>.h5 among them."""
        stem = stem_of(evaluation)
        header = ",".join(f"given_{name}" for name in self.names)
        table = save_table(stem.with_name(f"{stem.name}_confusion.csv"), outputs["confusion"].numpy(), header, "%d")
        draw = partial(draw_confusion_page, table=outputs["confusion"].numpy(), names=self.names)
        return [PointPredictions.path(stem), table, *draw_to(table, self.options.pictures, draw)]


def has_class(dataset: CloudDataset, number: int) -> bool:
    """Return whether any point of a data set is of a class; reads only as many events as needed."""
    return any((batch.semantic == number).any() for batch in dataset.batches(_EVENTS))


class PointSums:
    """Adds up the confusion matrix and the sums of the loss of an evaluation, exactly over minibatches and processes.

    Memory does not grow with the split. If the evaluation has a stem, points are gathered on process 0, which writes
    them to `predictions`."""

    def __init__(
        self, task: PointSegmentation, predictions: PointPredictions | None, evaluation: Evaluation, shared: bool
    ):
        self.task, self.predictions, self.evaluation, self.shared = task, predictions, evaluation, shared
        classes = len(task.names)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.sums = task.loss.sums(torch.zeros(0, classes, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))

    def __enter__(self) -> "PointSums":
        if self.predictions is not None:
            self.predictions.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.predictions is not None:
            self.predictions.__exit__(*error)

    def add(self, output: StepOutput) -> None:
        """Add a minibatch."""
        rows = dict(output.outputs)
        self.confusion += confusion_of(rows["particle_truth"], rows["particle_class"], len(self.confusion)).cpu()
        for total, part in zip(self.sums, rows.pop("sums").cpu().split([len(s) for s in self.sums]), strict=True):
            total += part
        if self.evaluation.stem is None:
            return
        rows = {name: value.cpu() for name, value in rows.items()}
        rows["particle_probability"] = rows["particle_probability"].half()
        rows = distributed.gather_events(rows) if self.shared else rows
        if self.predictions is not None:
            self.predictions.append(rows)

    def finish(self) -> tuple[dict[str, float] | None, dict[str, Tensor]]:
        """Return the metrics and the confusion matrix (C, C) int64, on process 0. NonFiniteError as in `check_loss`."""
        if self.shared:
            mine = torch.cat([self.confusion.flatten().double(), *self.sums])
            every = torch.tensor(distributed.total(*mine.tolist()), dtype=torch.float64)
            confusion, *self.sums = every.split([self.confusion.numel(), *map(len, self.sums)])
            self.confusion = confusion.view_as(self.confusion).long()
        check_loss(float(sum(part.sum() for part in self.sums)), self.evaluation)
        if not distributed.is_main():
            return None, {}
        return self.task.metrics(self.confusion, self.sums), {"confusion": self.confusion}
