"""Classification of jets."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.metrics.classification import classification_metrics, confusion, one_vs_rest
from puffin.models.pelican import PelicanClassifier
from puffin.settings.names import CLASSIFICATION_METRICS
from puffin.tasks.saving import save_predictions, save_table, stem_of
from puffin.tasks.weighting import weighted_mean
from puffin.training.task import Evaluation, InMemoryTask, StepOutput


class JetClassification(InMemoryTask):
    """Cross entropy of class scores, weighted by the weight of the event and by that of its class.

    class_weights: (K,) or None; predict_format: "pt" or "h5"; best_by: metric that chooses the best epoch."""

    def __init__(
        self,
        model: PelicanClassifier,
        class_weights: Tensor | None = None,
        predict_format: str = "pt",
        best_by: str = "loss",
    ):
        super().__init__(model)
        self.class_weights, self.predict_format, self.best_by = class_weights, predict_format, best_by
        self.num_classes = model.config.num_classes
        self.metric_directions = dict(CLASSIFICATION_METRICS)
        if self.num_classes != 2:  # rejections are numbered by class then
            self.metric_directions = {k: v for k, v in CLASSIFICATION_METRICS.items() if not k.startswith("BgRej")}

    def check_labels(self, labels: Tensor, split: str) -> None:
        """Raise InputError if the labels have more classes than the network."""
        if int(labels.max()) >= self.num_classes:
            raise InputError(f"{split}: found class {int(labels.max())}, but --num-classes is {self.num_classes}")

    def step(self, batch: JetBatch) -> StepOutput:
        """Mean cross entropy. Outputs: predict (B, K), targets (B,), index (B,), and weights (B,) if events have
        any."""
        logits = self.model(batch)
        losses = F.cross_entropy(
            logits.float() if logits.dtype == torch.bfloat16 else logits, batch.target, reduction="none"
        )
        weights = batch.weights
        if self.class_weights is not None:
            of_class = self.class_weights.to(losses)[batch.target]
            weights = of_class if weights is None else weights * of_class
        outputs = {"predict": logits.detach(), "targets": batch.target, "index": batch.index}
        if batch.weights is not None:
            outputs["weights"] = batch.weights
        return StepOutput(*weighted_mean(losses, weights), outputs)

    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """Compute the CSV columns (docs/MATHEMATICS_PELICAN.md, section 7)."""
        scores, targets, weights = _arrays(outputs)
        return classification_metrics(scores, targets, loss, weights)

    def batch_metrics(self, output: StepOutput) -> dict[str, float]:
        """Compute the accuracy of a minibatch."""
        right = output.outputs["predict"].argmax(1) == output.outputs["targets"]
        return {"accuracy": float(right.float().mean()) if len(right) else float("nan")}

    def save_outputs(self, evaluation: Evaluation, outputs: dict[str, Tensor]) -> list[Path]:
        """Write <stem>.pt or .h5 (the outputs of `step`, and the row of each jet), ROC curves, and for more than two
        classes the confusion matrix; return the files."""
        stem = stem_of(evaluation)
        written = [save_predictions(evaluation, outputs, self.predict_format)]
        arrays = _arrays(outputs)
        for c, curve in enumerate(one_vs_rest(*arrays)):
            if curve is not None:
                name = f"{stem.name}_ROC.csv" if self.num_classes == 2 else f"{stem.name}_ROC_{c}.csv"
                header = "background_efficiency,signal_efficiency,threshold"
                written.append(save_table(stem.with_name(name), np.stack(curve, 1), header))
        if self.num_classes > 2:
            header = ",".join(f"given_{c}" for c in range(self.num_classes))
            written.append(save_table(stem.with_name(f"{stem.name}_confusion.csv"), confusion(*arrays), header))
        return written


def _arrays(outputs: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return scores, targets and event weights."""
    weights = outputs.get("weights")
    return outputs["predict"].double().numpy(), outputs["targets"].numpy(), None if weights is None else weights.numpy()
