"""Regression of four-momenta from jets."""

from pathlib import Path

from torch import Tensor

from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.layers.packed import offsets, to_device
from puffin.losses.momenta import momentum_loss, transverse_momentum
from puffin.metrics.missing import NO_EVENTS, NO_WEIGHT, not_finite
from puffin.metrics.regression import columns, regression_metrics
from puffin.models.pelican import PelicanRegressor
from puffin.ops.segments import segment_sum
from puffin.settings.names import REGRESSION_METRICS
from puffin.tasks.missing import explained, refuse_best_by
from puffin.tasks.saving import save_predictions
from puffin.tasks.weighting import combined, weighted_mean
from puffin.training.task import Evaluation, InMemoryTask, StepOutput


class MomentumRegression(InMemoryTask):
    """A weighted sum of momentum losses.

    terms: weight of each loss by name (losses/momenta.py); predict_format: "pt" or "h5"; best_by: metric that chooses
    the best epoch."""

    def __init__(
        self, model: PelicanRegressor, terms: dict[str, float], predict_format: str = "pt", best_by: str = "loss"
    ):
        super().__init__(model)
        self.terms, self.predict_format, self.best_by = terms, predict_format, best_by
        names = [name for name in columns(model.config.num_targets) if name in REGRESSION_METRICS]
        self.metric_directions = {
            name: REGRESSION_METRICS[name] for name in names
        }  # numbered if there are several targets
        self.details = tuple(
            name for name in columns(model.config.num_targets) if name.startswith("loss_") and name != best_by
        )

    def check_targets(self, targets: Tensor | None, name: str) -> None:
        """Raise InputError if there are true momenta, targets (N, T, 4), but not as many as the network predicts."""
        if targets is not None and targets.shape[1] != self.model.config.num_targets:
            raise InputError(
                f"{name}: --target names {targets.shape[1]} momenta for each jet, but --num-targets "
                f"is {self.model.config.num_targets}"
            )

    def step(self, batch: JetBatch) -> StepOutput:
        """Mean loss of the batch.

        Outputs: predict, targets (B, T, 4); index (B,); weights (B,) if events have any; in evaluation also jet (B, 4),
        the sum of the constituents; particle_weights (N', T, K), spurions first in each jet, and lengths (B,), the
        number of them in each jet. Jets without targets have no loss."""
        weights = combined(batch.weights)
        out = self.model(batch)
        outputs = {"predict": out.fourmomenta.detach(), "index": batch.index}
        if batch.weights is not None:
            outputs["weights"] = batch.weights
        if not self.model.training:
            ptr = to_device(offsets(batch.lengths), batch.fourmomenta.device)
            outputs["jet"] = segment_sum(batch.fourmomenta, ptr) / self.model.config.scale
            outputs |= {"particle_weights": out.weights.detach(), "lengths": out.lengths}
        if batch.target is None:
            return StepOutput(out.fourmomenta.new_zeros(()), 0, outputs)
        losses = momentum_loss(out.fourmomenta, batch.target, self.terms).mean(1)
        return StepOutput(*weighted_mean(losses, weights), outputs | {"targets": batch.target})

    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """Compute the CSV columns (docs/MATHEMATICS_PELICAN.md, section 7); {} for jets without true momenta."""
        if "targets" not in outputs:
            return {}
        return regression_metrics(outputs["predict"], outputs["targets"], loss, outputs.get("weights"))

    def why_missing(self, metrics: dict[str, float], outputs: dict[str, Tensor]) -> dict[str, str]:
        """Name weights that are all 0, predictions that are not finite, and true momenta without pT."""
        if "targets" not in outputs:
            return {}
        targets = outputs["targets"]
        bad = not_finite(outputs["predict"].numpy(), "predicted momenta")
        reasons = dict.fromkeys(metrics, bad) if bad else self._missing(targets, outputs.get("weights"))
        still = (transverse_momentum(targets) == 0).sum(0).tolist()
        for t, number in enumerate(still):
            for name in ("dpT", "pT_response", "pT_resolution") if number else ():
                column = name if len(still) == 1 else f"{name}_{t}"
                reasons.setdefault(column, f"the true pT of {number} of {len(targets)} events is 0")
        return explained(metrics, reasons)

    def check_best_by(self, labels: Tensor | None, weights: Tensor | None, split: str) -> None:
        """Raise InputError if the weights of the split are all 0."""
        if labels is not None:
            refuse_best_by(self.best_by, self._missing(labels, weights), split)

    def _missing(self, targets: Tensor, weights: Tensor | None) -> dict[str, str]:
        """Explain which metrics the events and weights of a split rule out: all of them or none."""
        names = columns(self.model.config.num_targets)
        if not len(targets):
            return dict.fromkeys(names, NO_EVENTS)
        return dict.fromkeys(names, NO_WEIGHT) if weights is not None and not weights.any() else {}

    def save_outputs(self, evaluation: Evaluation, outputs: dict[str, Tensor]) -> list[Path]:
        """Write <stem>.pt or <stem>.h5: all outputs, momenta in GeV; return the files."""
        return [save_predictions(evaluation, outputs, self.predict_format)]
