"""Masked modelling of point clouds: pretraining of Point-MAE, PoLAr-MAE and a U-Net on voxels."""

from pathlib import Path

import torch
from torch import Tensor

from puffin.data.augment import Augmentation
from puffin.data.packing import CloudBatch
from puffin.layers.all_reduce import all_reduce_sum
from puffin.layers.blocks import Blocks
from puffin.layers.grouping import Tokens
from puffin.layers.packed import event_of_row
from puffin.losses.clouds import mean_of
from puffin.models.point_mae import MaskedAutoencoder, random_mask
from puffin.tasks.missing import explained, refuse_best_by
from puffin.tasks.probe import Probe
from puffin.tasks.saving import save_predictions
from puffin.training import distributed
from puffin.training.task import Evaluation, InMemoryTask, Progress, StepOutput

FAINT, DROPPED, BAD = (
    "events skipped with fewer than two tokens or blocks",
    "tokens beyond --context dropped",
    "bad events skipped",
)
TOO_SMALL = "events skipped with fewer points than --min-points"


class MaskedModelling(InMemoryTask):
    """Predict the masked tokens, or blocks of voxels, of events; training events are masked anew every time.

    Training draws from PyTorch's global generator, whose state is in every checkpoint. In evaluation the mask of an
    event depends only on `seed` and the event's number in its data set, not on the minibatch.
    augmentations: what is done to training events, in this order.
    probe: made after a validation if `probe_every` steps have been completed since the last one (0: never), and after
    every evaluation of a finished run. too_small: number of events that the data set of each split skips; logged once.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        seed: int,
        augmentations: tuple[Augmentation, ...] = (),
        probe: Probe | None = None,
        probe_every: int = 0,
        predict_format: str = "pt",
        too_small: dict[str, int] | None = None,
        best_by: str = "loss",
    ):
        super().__init__(model)
        self.seed, self.augmentations, self.probe, self.probe_every = seed, augmentations, probe, probe_every
        self.predict_format, self.best_by = predict_format, best_by
        self.metric_directions = dict.fromkeys(("loss", *model.terms), -1)
        if probe is not None:
            self.metric_directions |= {f"probe_f1_{name}": 1 for name in (*probe.names, "mean")}
        self.counts = {FAINT: 0, DROPPED: 0, BAD: 0, TOO_SMALL: 0}
        self._too_small = dict(too_small or {}) if distributed.is_main() else {}
        self._probed_split = ""

    def step(self, batch: CloudBatch) -> StepOutput:
        """Loss over what is masked, in training over that of all processes.

        Outputs, in evaluation only, with one row per event: index, and the columns of `by_event` of the network."""
        model = self.model
        if model.training:
            self.counts[TOO_SMALL] += self._too_small.pop("train", 0)
        for augment in self.augmentations if model.training else ():
            batch = augment(batch)
        parts = self._parts(batch)
        if model.training:
            masked = random_mask(parts.lengths, model.config.mask_ratio)
        else:
            masked = fixed_mask(parts.lengths, model.config.mask_ratio, self.seed, batch.index)
        result = model.reconstruct(parts, masked)
        # the terms are means over different things, such as tokens and points: one weight per process would not do
        loss = sum(mean_of(all_reduce_sum(sums) if model.training else sums) for sums in result.sums().values())
        outputs = {}
        if not model.training:
            outputs = {"index": batch.index} | {name: column.cpu() for name, column in result.by_event().items()}
        return StepOutput(loss, int(masked.sum()), outputs)

    def _parts(self, batch: CloudBatch) -> Tokens | Blocks:
        """Return the parts of events that have at least two: one to mask, and one to predict it from."""
        parts = self.model.parts(batch.points, batch.lengths)
        faint = parts.lengths < 2
        self.counts[FAINT] += int(faint.sum())
        self.counts[DROPPED] += int(parts.dropped.sum())
        self.counts[BAD] += batch.skipped
        return parts.select(~faint[event_of_row(parts.lengths)]) if faint.any() else parts

    def begin_evaluation(self, evaluation: Evaluation, progress: Progress) -> None:
        """Decide whether to probe."""
        before, every, split = (
            progress.history[-1]["step"] if progress.history else 0,
            self.probe_every,
            evaluation.split,
        )
        crossed = bool(every) and progress.step // every > before // every
        due = crossed or not evaluation.during_training
        self._probed_split = split if due and split != "train" else ""
        self.counts[TOO_SMALL] += self._too_small.pop(split, 0)

    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """Compute loss, its terms, and the F1 of the probe (nan if none was made): the same columns every time.

        Loss and terms are nan if nothing was masked."""
        total = {name: float(value.double().sum()) for name, value in outputs.items() if name != "index"}
        numbers = {name: _mean(total, f"{name}_sum", number) for name, number in self.model.terms.items()}
        numbers = {"loss": sum(numbers.values()), **numbers}
        if self.probe is not None:
            found = self.probe(self.model, self._probed_split) if self._probed_split else {}
            numbers |= {
                name: found.get(name, float("nan")) for name in self.metric_directions if name.startswith("probe_")
            }
        return numbers

    def why_missing(self, metrics: dict[str, float], outputs: dict[str, Tensor]) -> dict[str, str]:
        """Name splits in which nothing is masked, and classes that the samples of the probe do not have."""
        reasons, terms = {}, self.model.terms
        if not any(outputs[number].any() for number in terms.values() if number in outputs):
            reason = "no event has two tokens or blocks, one to mask and one to predict it from"
            reasons = dict.fromkeys(("loss", *terms), reason)
        if self.probe is not None and self._probed_split:
            reasons |= self.probe.why_missing(self.model, self._probed_split)
        found = explained(metrics, reasons)
        return {name: why for name, why in found.items() if name in reasons or not name.startswith("probe_")}

    def check_best_by(self, labels: Tensor | None, weights: Tensor | None, split: str) -> None:
        """Raise InputError if --best-by is the probe's F1 of a class that its samples do not have.

        The samples are from the data sets of the probe, and are chosen only if --best-by needs them."""
        if self.probe is not None and self.best_by.startswith("probe_"):
            refuse_best_by(self.best_by, self.probe.why_missing(self.model, split), split)

    def save_outputs(self, evaluation: Evaluation, outputs: dict[str, Tensor]) -> list[Path]:
        """Write the rows of `step` to <stem>.pt or .h5; return the file."""
        return [save_predictions(evaluation, outputs, self.predict_format)]


def _mean(total: dict[str, float], name: str, number: str) -> float:
    """Divide a sum by the number of its terms; nan if there are none."""
    return total[name] / total[number] if total.get(number) else float("nan")


def fixed_mask(lengths: Tensor, ratio: float, seed: int, index: Tensor) -> Tensor:
    """Draw a mask (T,) for each event from the seed and its number alone: index, lengths (B,) int64 on the CPU."""
    generator = torch.Generator()
    parts = [
        random_mask(lengths[k : k + 1], ratio, generator.manual_seed((seed * 1_000_003 + event) % 2**63))
        for k, event in enumerate(index.tolist())
    ]
    return torch.cat([torch.zeros(0, dtype=torch.bool), *parts])
