"""What all pretrainings share: augmented events, counts of what is skipped, means of the loss, and the linear probe."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from puffin.data.augment import Augmentation
from puffin.data.packing import CloudBatch
from puffin.tasks.missing import explained, refuse_best_by
from puffin.tasks.probe import Probe
from puffin.tasks.saving import save_predictions
from puffin.training import distributed
from puffin.training.task import Evaluation, InMemoryTask, Progress

BAD, TOO_SMALL = "bad events skipped", "events skipped with fewer points than --min-points"


class Pretraining(InMemoryTask):
    """Train a network on events without labels.

    Training draws from PyTorch's global generator, whose state is in every checkpoint. In evaluation what is drawn for
    an event depends only on `seed` and the event's number in its data set, not on the minibatch.
    model: has `terms`, the name of each term of the loss and of the output that counts what it is a mean over; the sum
    of its errors is the output <term>_sum. augmentations: what is done to training events, in this order.
    probe: made after a validation if `probe_every` steps have been completed since the last one (0: never), and after
    every evaluation of a finished run. too_small: number of events that the data set of each split skips; logged once.
    """

    no_items: str  # why an evaluation may have nothing to average over
    counted: tuple[str, ...] = ()  # what the log reports beside BAD and TOO_SMALL

    def __init__(
        self,
        model: nn.Module,
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
        self.counts = dict.fromkeys((*self.counted, BAD, TOO_SMALL), 0)
        self._too_small = dict(too_small or {}) if distributed.is_main() else {}
        self._probed_split = ""

    def prepared(self, batch: CloudBatch) -> CloudBatch:
        """Count what is skipped in a minibatch; return it, in training augmented."""
        self.counts[BAD] += batch.skipped
        if self.model.training:
            self.counts[TOO_SMALL] += self._too_small.pop("train", 0)
            for augment in self.augmentations:
                batch = augment(batch)
        return batch

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

        Loss and terms are nan if there was nothing to average over."""
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
        """Name splits without anything to average over, and classes that the samples of the probe do not have."""
        reasons, terms = {}, self.model.terms
        if not any(outputs[number].any() for number in terms.values() if number in outputs):
            reasons = dict.fromkeys(("loss", *terms), self.no_items)
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


def generators(seed: int, index: Tensor) -> Iterator[torch.Generator]:
    """Yield a generator for each event, from the seed and the event's number alone; index (B,) int64 on the CPU."""
    generator = torch.Generator()
    for event in index.tolist():
        yield generator.manual_seed((seed * 1_000_003 + event) % 2**63)
