"""Classification of jets."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.metrics.classification import classification_metrics, columns, confusion, one_vs_rest
from puffin.metrics.missing import missing_of_classes, not_finite
from puffin.models.pelican import PelicanClassifier
from puffin.plots.jets import draw_reliability
from puffin.plots.style import draw_to
from puffin.settings.names import CLASSIFICATION_METRICS
from puffin.tasks.calibration import Calibration
from puffin.tasks.missing import explained, refuse_best_by
from puffin.tasks.saving import save_predictions, save_table, stem_of
from puffin.tasks.weighting import combined, weighted_mean
from puffin.training.task import Evaluation, InMemoryTask, StepOutput

ROC_POINTS = 1_000_000  # in a table: some 30 MB; tens of millions of jets give as many points


class JetClassification(InMemoryTask):
    """Cross entropy of class scores, weighted by the weight of the event and by that of its class.

    class_weights: (K,) or None; predict_format: "pt" or "h5"; best_by: metric that chooses the best epoch;
    class_names: for messages, () for class numbers alone; pictures: formats of the reliability diagram."""

    def __init__(
        self,
        model: PelicanClassifier,
        class_weights: Tensor | None = None,
        predict_format: str = "pt",
        best_by: str = "loss",
        class_names: Sequence[str] = (),
        pictures: Sequence[str] = ("png",),
    ):
        super().__init__(model)
        self.class_weights, self.predict_format, self.best_by = class_weights, predict_format, best_by
        self.class_names, self.pictures = tuple(class_names), tuple(pictures)
        self.calibration: Calibration | None = None  # of the weights that are evaluated, if it is asked for
        self.working_point = 0.0
        self.num_classes = model.config.num_classes
        self.metric_directions = dict(CLASSIFICATION_METRICS)
        if self.num_classes != 2:  # rejections are numbered by class then
            own = ("loss", "accuracy", "AUC", best_by)
            self.details = tuple(name for name in columns(self.num_classes) if name not in own)
            self.metric_directions = {k: v for k, v in CLASSIFICATION_METRICS.items() if not k.startswith("BgRej")}

    def check_labels(self, labels: Tensor | None, split: str) -> None:
        """Raise InputError if the labels, if there are any, have more classes than the network."""
        if labels is not None and int(labels.max()) >= self.num_classes:
            raise InputError(f"{split}: found class {int(labels.max())}, but --num-classes is {self.num_classes}")

    def step(self, batch: JetBatch) -> StepOutput:
        """Mean cross entropy. Outputs: predict (B, K), targets (B,), index (B,), and weights (B,) if events have
        any.

        The targets of the batch are class numbers (B,), or in training probabilities (B, K), which count as the most
        probable class in the outputs and for the class weights. Jets without targets have no loss."""
        if batch.target is None:
            logits = self.model(batch)
            return StepOutput(logits.new_zeros(()), 0, {"predict": logits.detach(), "index": batch.index})
        momenta = batch.fourmomenta  # of the dtype and on the device of the losses
        classes = batch.target.argmax(1) if batch.target.is_floating_point() else batch.target
        of_class = self.class_weights
        if of_class is not None:
            of_class = of_class.to(momenta.device, momenta.dtype, non_blocking=True)[classes]
        weights = combined(batch.weights, of_class)
        logits = self.model(batch)
        losses = F.cross_entropy(
            logits.float() if logits.dtype == torch.bfloat16 else logits, batch.target, reduction="none"
        )
        outputs = {"predict": logits.detach(), "targets": classes, "index": batch.index}
        if batch.weights is not None:
            outputs["weights"] = batch.weights
        return StepOutput(*weighted_mean(losses, weights), outputs)

    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """Compute the CSV columns (docs/MATHEMATICS_PELICAN.md, section 7); {} for jets without labels."""
        if "targets" not in outputs:
            return {}
        scores, targets, weights = arrays_of(outputs)
        metrics = classification_metrics(scores, targets, loss, weights)
        if self.calibration is not None and np.isfinite(scores).all():
            metrics |= self.calibration.metrics(scores, targets, weights, self.working_point)
        return metrics

    def why_missing(self, metrics: dict[str, float], outputs: dict[str, Tensor]) -> dict[str, str]:
        """Name absent classes, weights that are all 0, and scores that are not finite."""
        if "targets" not in outputs:
            return {}
        scores, targets, weights = arrays_of(outputs)
        reasons = self._missing(targets, weights)
        bad = not_finite(scores, "class scores")
        return explained(metrics, dict.fromkeys(metrics, bad) if bad else reasons)

    def check_best_by(self, labels: Tensor | None, weights: Tensor | None, split: str) -> None:
        """Raise InputError if --best-by needs a class that the split does not have, or weights that are all 0."""
        if labels is not None:
            plain = None if weights is None else weights.numpy()
            refuse_best_by(self.best_by, self._missing(labels.numpy(), plain), split)

    def _missing(self, targets: np.ndarray, weights: np.ndarray | None) -> dict[str, str]:
        """Explain which metrics the labels and weights of events rule out."""
        reasons = missing_of_classes(targets, weights, self.num_classes, self.class_names)
        if self.class_weights is not None:
            of_class = self.class_weights.numpy()[targets]
            if not (of_class if weights is None else of_class * weights).any():
                reasons = {"loss": "the class weights of all events are 0"} | reasons
        return reasons

    def batch_metrics(self, output: StepOutput) -> dict[str, float]:
        """Compute the accuracy of a minibatch."""
        right = output.outputs["predict"].argmax(1) == output.outputs["targets"]
        return {"accuracy": float(right.float().mean()) if len(right) else float("nan")}

    def save_outputs(self, evaluation: Evaluation, outputs: dict[str, Tensor]) -> list[Path]:
        """Write <stem>.pt or .h5 (the outputs of `step`, and the row of each jet), ROC curves, and for more than two
        classes the confusion matrix; return the files.

        With a calibration: also the probabilities (N, K), at a working point `decision` (N,), 1 for tagged jets, and
        the reliability diagram."""
        stem = stem_of(evaluation)
        written: list[Path] = []
        if self.calibration is not None:
            scores = outputs["predict"].double().numpy()
            outputs = outputs | self.calibration.outputs(scores, self.working_point)
        written.append(save_predictions(evaluation, outputs, self.predict_format))
        if "targets" not in outputs:
            return written
        arrays = arrays_of(outputs)
        if self.calibration is not None:
            bins = self.calibration.reliabilities(*arrays)
            draw = partial(draw_reliability, before=bins[0], after=bins[1], temperature=self.calibration.temperature)
            written += draw_to(stem.with_name(f"{stem.name}_ECE.png"), self.pictures, draw)
        for c, curve in enumerate(one_vs_rest(*arrays)):
            if curve is not None:
                name = f"{stem.name}_ROC.csv" if self.num_classes == 2 else f"{stem.name}_ROC_{c}.csv"
                header = "background_efficiency,signal_efficiency,threshold"
                written.append(save_table(stem.with_name(name), np.stack(curve.thinned(ROC_POINTS), 1), header))
        if self.num_classes > 2:
            header = ",".join(f"given_{c}" for c in range(self.num_classes))
            written.append(save_table(stem.with_name(f"{stem.name}_confusion.csv"), confusion(*arrays), header))
        return written


def arrays_of(outputs: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return scores, targets and event weights."""
    weights = outputs.get("weights")
    return outputs["predict"].double().numpy(), outputs["targets"].numpy(), None if weights is None else weights.numpy()
