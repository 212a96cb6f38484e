"""Self-distillation as a task: pretraining of a U-Net whose moving average is the teacher."""

import torch
from torch import Tensor

from puffin.data.augment import Augmentation
from puffin.data.packing import CloudBatch
from puffin.data.views import Views, crops_and_masked, rows_at
from puffin.layers.blocks import split_into_blocks
from puffin.layers.packed import event_of_row, to_device
from puffin.losses.prototypes import assignment_errors, distinguished, even_assignments
from puffin.models.point_mae import random_mask
from puffin.models.voxel_distillation import VoxelDistillation
from puffin.tasks.masked_modelling import fixed_mask
from puffin.tasks.pretraining import Pretraining, generators
from puffin.training.task import StepOutput


class SelfDistillation(Pretraining):
    """Predict from parts of events to which prototypes a teacher, which sees the whole events, assigns their points.

    The student sees crops, and whole events of which blocks are hidden. In training, prototypes get equal shares of the
    points of a minibatch, of all processes together; in evaluation, of the points of each event.
    augmentations: made before the events are cut, so that both see the same points; own: then made for the student and
    for the teacher independently. They keep all points and their order.
    """

    model: VoxelDistillation
    no_items = "no event has a point"

    def __init__(self, model: VoxelDistillation, seed: int, *settings, own: tuple[Augmentation, ...] = (), **further):
        super().__init__(model, seed, *settings, **further)
        self.own = own

    def after_update(self, done: float) -> None:
        """Let the teacher follow the student."""
        self.model.update_teacher_(self.model.momentum(done))

    def step(self, batch: CloudBatch) -> StepOutput:
        """Loss over all points of all views.

        Outputs, in evaluation only, with one row per event: index, `matched` points of its views, `loss_sum` of their
        errors, and of the teacher's probabilities for its `points` the sums `assigned` (B, K) and `entropy`."""
        model, temperature = self.model, self.model.config.distillation.teacher_temperature
        whole, views = self._views(self.prepared(batch))
        teacher, student = whole, views.batch
        for augment in self.own if model.training else ():
            teacher, student = augment(teacher), augment(student)
        cosines = model.teach(teacher.points, teacher.lengths)
        if model.training:
            assigned = even_assignments(cosines, temperature)
        else:
            of_events = cosines.split(whole.lengths.tolist())
            of_events = [even_assignments(event, temperature, shared=False) for event in of_events]
            assigned = torch.cat([cosines[:0], *of_events])
        predicted = model(student.points, student.lengths, views.hidden)
        errors = assignment_errors(predicted, assigned[to_device(views.rows, assigned.device)])
        outputs = {}
        if not model.training:
            probabilities = (cosines / temperature).softmax(1)
            outputs = {"index": batch.index, **_sums(whole.lengths, views.rows, errors, probabilities)}
        return StepOutput(errors.sum() / max(len(errors), 1), len(errors), outputs)

    def _views(self, batch: CloudBatch) -> tuple[CloudBatch, Views]:
        """Return the events with their points in blocks, and what the student sees of them."""
        config, lengths = self.model.config, batch.lengths
        blocks = split_into_blocks(batch.points, lengths, config.mask_level)
        number = config.distillation.crops
        if self.model.training:
            fractions = torch.rand(len(batch), number, dtype=torch.float64)
            masked = random_mask(blocks.lengths, config.mask_ratio)
        else:
            fractions = fixed_fractions(number, self.seed, batch.index)
            masked = fixed_mask(blocks.lengths, config.mask_ratio, self.seed, batch.index)
        whole = CloudBatch(blocks.points, lengths)
        hidden = masked.repeat_interleave(blocks.counts)
        return whole, crops_and_masked(whole, rows_at(fractions, lengths), config.distillation.crop_radius, hidden)

    def metrics(self, outputs: dict[str, Tensor], loss: float) -> dict[str, float]:
        """Compute loss, `prototypes`, the number of prototypes that tell points apart (1: the network has collapsed),
        and the F1 of the probe."""
        numbers = super().metrics(outputs, loss)
        if not outputs:
            return numbers | {"prototypes": float("nan")}
        sums = [outputs[name].double().sum(0) for name in ("assigned", "entropy", "points")]
        return numbers | {"prototypes": distinguished(*sums)}


def _sums(lengths: Tensor, rows: Tensor, errors: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
    """Add up the errors (N,) of the points of views, and the teacher's probabilities (P, K), by event, on the CPU.

    On the CPU: rows (N,), of the points of views in the P rows of the events; lengths (B,)."""
    event = event_of_row(lengths)
    of_view = event[rows]

    def by_event(x: Tensor, event: Tensor) -> Tensor:
        sums = x.new_zeros(len(lengths), *x.shape[1:])
        return sums.index_add(0, to_device(event, x.device), x).cpu()

    return {
        "matched": of_view.bincount(minlength=len(lengths)),
        "loss_sum": by_event(errors.detach(), of_view),
        "points": lengths,
        "assigned": by_event(probabilities, event),
        "entropy": by_event(torch.special.entr(probabilities).sum(1), event),
    }


def fixed_fractions(number: int, seed: int, index: Tensor) -> Tensor:
    """Draw numbers (B, number) float64 from 0 to 1 for each event from the seed and its number alone; index (B,)."""
    drawn = [torch.rand(1, number, dtype=torch.float64, generator=generator) for generator in generators(seed, index)]
    return torch.cat([torch.zeros(0, number, dtype=torch.float64), *drawn])
