"""Semantic segmentation of point clouds as a task: every point gets a class."""

from pathlib import Path

import torch
from torch import Tensor

from puffin.data.augment import random_rotations, rotate
from puffin.data.packing import CloudBatch
from puffin.data.pilarnet import CloudDataset
from puffin.detector import PILARNET
from puffin.files import whole_file
from puffin.layers.all_reduce import all_reduce_sum
from puffin.losses.clouds import LossTerms
from puffin.metrics.segmentation import PER_CLASS, confusion_of, segmentation_metrics
from puffin.models.segmentation import Segmentation
from puffin.plots.curves import draw_confusion_page
from puffin.tasks.point_predictions import PointPredictions
from puffin.tasks.saving import save_table
from puffin.training import distributed
from puffin.training.trainer import Progress, StepOutput

NO_TOKENS, DROPPED, BAD = "events without any point that is kept", "tokens beyond the context", "bad events"
TOO_SMALL = "events without labels, as they have fewer points than --min-points"


class PointSegmentation:
    """Losses on the class scores of points; in training events are turned at random.

    loss: functions of sums over the points of a batch of all processes, which dice needs; its value for a split is that of
    the sums over all its points.  layer_decay: of the learning rate, from block to block down the encoder.  datasets: the
    splits by name, which tell where an event of a split lies.  plot: draw confusion matrices.  checkpoints: the files that the
    `best` and `final` weights are in, to be named with what they predict."""

    metric_directions = {"loss": -1, "accuracy": 1} | {f"{metric}_macro": 1 for metric in PER_CLASS}

    def __init__(
        self,
        model: Segmentation,
        loss: LossTerms,
        datasets: dict[str, CloudDataset],
        rotate: bool = True,
        layer_decay: float = 1.0,
        plot: bool = False,
        checkpoints: dict[str, Path] | None = None,
    ):
        self.model, self.loss, self.datasets = model, loss, datasets
        self.rotate, self.layer_decay, self.plot, self.checkpoints = rotate, layer_decay, plot, checkpoints or {}
        self.names = PILARNET.class_names[: model.config.num_classes]
        self.metric_directions = self.metric_directions | {
            f"{metric}_{name}": 1 for metric in PER_CLASS for name in self.names
        }
        self.details = [name for name in self.metric_directions if name.startswith(("precision_", "recall_", "iou_"))]
        self.counts = {NO_TOKENS: 0, DROPPED: 0, BAD: 0, TOO_SMALL: 0}

    def parameter_groups(self) -> list[dict]:
        """What the optimizer gets."""
        return self.model.parameter_groups(self.layer_decay)

    def step(self, batch: CloudBatch) -> StepOutput:
        """Loss over the points.  Outputs, in evaluation only: index and lengths (B,), sums of the loss, and for each point
        particle_truth, particle_class, particle_probability (P, C) and, if the batch has them, particle_row."""
        model = self.model
        if model.training and self.rotate:
            batch = rotate(batch, random_rotations(len(batch)))
        logits, tokens = model(batch.points, batch.lengths)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self.counts[NO_TOKENS] += int((batch.lengths == 0).sum())
        self.counts[DROPPED] += int(tokens.dropped.sum())
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

    def begin_evaluation(self, name: str, progress: Progress) -> None:
        """Count the events that are not in the split; name: 'valid' in training, '<which weights> <split>' afterwards."""
        if name != "valid" and distributed.is_main():
            self.counts[TOO_SMALL] += self.datasets[name.split()[-1]].too_small

    def collect(self, name: str, stem: Path | None, shared: bool) -> "PointSums":
        """For an evaluation: sums instead of points; with a stem, the points go to <stem>.h5 as they come."""
        predictions = None
        if stem is not None and distributed.is_main():
            weights, split = name.split()
            predictions = PointPredictions(stem, self.datasets[split], self.names, self.checkpoints.get(weights))
        return PointSums(self, predictions, stem is not None, shared)

    def numbers(self, confusion: Tensor, sums: list[Tensor]) -> dict[str, float]:
        """CSV columns, from the confusion matrix (C, C) and the sums of the loss over a split."""
        terms, losses = self.loss.values(sums), {"loss": float(self.loss.total(sums))}
        if len(terms) > 1:
            losses |= {f"loss_{name}": float(value) for name, value in terms.items()}
        return losses | segmentation_metrics(confusion.numpy(), self.names)

    def save_outputs(self, stem: Path, outputs: dict[str, Tensor]) -> list[Path]:
        """Write <stem>_confusion.csv and, if pictures are wanted, .png; returns the files, <stem>.h5 among them."""
        header = ",".join(f"given_{name}" for name in self.names)
        table = save_table(stem.with_name(f"{stem.name}_confusion.csv"), outputs["confusion"].numpy(), header, "%d")
        written = [PointPredictions.path(stem), table]
        if self.plot:
            written.append(table.with_suffix(".png"))
            with whole_file(written[-1]) as temporary:
                draw_confusion_page(temporary, outputs["confusion"].numpy(), self.names)
        return written


class PointSums:
    """What is kept of an evaluation: the confusion matrix and the sums of the loss, added up exactly over batches and
    processes, so that memory does not grow with the split; and the file of predictions, if there is to be one (`save`), which
    process 0 has."""

    def __init__(self, task: PointSegmentation, predictions: PointPredictions | None, save: bool, shared: bool):
        self.task, self.predictions, self.save, self.shared = task, predictions, save, shared
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
        """Take a batch."""
        rows = dict(output.outputs)
        self.confusion += confusion_of(rows["particle_truth"], rows["particle_class"], len(self.confusion)).cpu()
        for total, part in zip(self.sums, rows.pop("sums").cpu().split([len(s) for s in self.sums]), strict=True):
            total += part
        if not self.save:
            return
        rows = {name: value.cpu() for name, value in rows.items()}
        rows["particle_probability"] = rows["particle_probability"].half()
        rows = distributed.gather_events(rows) if self.shared else rows
        if self.predictions is not None:
            self.predictions.append(rows)

    def finish(self) -> tuple[dict[str, float] | None, dict[str, Tensor]]:
        """Metrics and the confusion matrix (C, C) int64, on process 0."""
        if self.shared:
            mine = torch.cat([self.confusion.flatten().double(), *self.sums])
            every = torch.tensor(distributed.total(*mine.tolist()), dtype=torch.float64)
            confusion, *self.sums = every.split([self.confusion.numel(), *map(len, self.sums)])
            self.confusion = confusion.view_as(self.confusion).long()
        if not distributed.is_main():
            return None, {}
        return self.task.numbers(self.confusion, self.sums), {"confusion": self.confusion}
