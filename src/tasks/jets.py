"""Tasks on jets: what the jet scripts train, measure and save."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.packing import JetBatch
from ..errors import InputError
from ..files import whole_file
from ..metrics.classification import binary_roc, classification_metrics
from ..models.pelican import PelicanClassifier
from ..training.trainer import StepOutput


class JetClassification:
    """Cross entropy on class scores."""

    metric_directions = {"loss": -1, "accuracy": 1, "AUC": 1, "BgRejectionAt0.3": 1, "BgRejectionAt0.5": 1}

    def __init__(self, model: PelicanClassifier):
        self.model = model
        self.num_classes = model.config.num_classes

    def check_labels(self, labels: Tensor, name: str) -> None:
        """InputError if there are more classes than outputs."""
        if int(labels.max()) >= self.num_classes:
            raise InputError(f"{name}: found class {int(labels.max())}, but --num-classes is {self.num_classes}")

    def step(self, batch: JetBatch) -> StepOutput:
        """Mean cross entropy of the batch; outputs: predict (B, K), targets (B,), index (B,)."""
        logits = self.model(batch)
        loss = F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, batch.target)
        outputs = {"predict": logits.detach(), "targets": batch.target, "index": batch.index}
        return StepOutput(loss, len(batch), outputs)

    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """The CSV columns of spec section 7."""
        return classification_metrics(outputs["predict"].double().numpy(), outputs["targets"].numpy(), loss)

    def save_outputs(self, stem: Path, outputs: dict[str, Tensor]) -> list[Path]:
        """Write <stem>.pt (predict, targets, index) and, for two classes, <stem>_ROC.csv; returns the files."""
        written = [stem.with_name(stem.name + ".pt")]
        with whole_file(written[0]) as temporary:
            torch.save({**outputs, "predict": outputs["predict"].double()}, temporary)
        roc = None
        if self.num_classes == 2:
            roc = binary_roc(outputs["predict"].double().numpy(), outputs["targets"].numpy())
        if roc is not None:
            written.append(stem.with_name(stem.name + "_ROC.csv"))
            with whole_file(written[1]) as temporary:
                header = "background_efficiency,signal_efficiency,threshold"
                np.savetxt(temporary, np.stack(roc, 1), delimiter=",", header=header, comments="", fmt="%.8g")
        return written
