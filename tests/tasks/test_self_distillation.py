"""Self-distillation as a task: the same points in both views, evaluation, collapse."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from puffin.data.augment import jitter_energies, lattice_symmetry
from puffin.data.packing import CloudBatch
from puffin.layers.voxels import voxel_coordinates
from puffin.models.voxel_distillation import VoxelDistillation
from puffin.settings.unet import UNetConfig
from puffin.tasks import self_distillation
from puffin.tasks.pretraining import BAD, TOO_SMALL
from puffin.tasks.self_distillation import SelfDistillation
from puffin.training.task import Evaluation
from tests.models.test_unet import walks
from tests.models.test_voxel_distillation import CONFIG


def make_task(own=(), augmentations=(), **changes):
    torch.manual_seed(1)
    config = replace(CONFIG, geometry=False, **changes)
    return SelfDistillation(VoxelDistillation(config), 3, augmentations, own=own)


def weights_of_student(task):
    return [weight for weight in task.model.parameters() if weight.requires_grad]


def make_batch(lengths, first=0, skipped=0):
    points, counts = walks(lengths, torch.float32) if lengths else (torch.zeros(0, 4), torch.zeros(0).long())
    return CloudBatch(points, counts, index=torch.arange(first, first + len(lengths)), skipped=skipped)


def seen(task, batch):
    """Return what teacher and student see in a step, points and lengths, and the views of the task."""
    model, found = task.model, {}
    teach, student, views = model.teach, model.forward, task._views

    def keep(name, function):
        def run(*arguments):
            result = function(*arguments)
            found[name] = result if name == "views" else arguments
            return result

        return run

    model.teach, model.forward, task._views = keep("teacher", teach), keep("student", student), keep("views", views)
    task.step(batch)
    model.teach, model.forward, task._views = teach, student, views
    return found["teacher"], found["student"], found["views"][1]


def test_views_are_of_the_same_voxels():
    """Teacher and student are rotated differently, yet row by row see the same physical voxels: their energies agree,
    and so do the distances between all voxels of a view.

    Breaks if the rows of a view are permuted, or if they are rows of the events before they were sorted."""
    batch = make_batch([150, 0, 90])
    task = make_task(own=(lattice_symmetry,))
    (whole, _), (points, lengths, hidden), views = seen(task, batch)
    matched = whole[views.rows]
    assert len(lengths) == 6 and len(points) > len(whole) and hidden.any()
    assert torch.equal(points[:, 3], matched[:, 3]) and len(whole[:, 3].unique()) == len(whole)
    rotated = 0
    for one, other in zip(points.split(lengths.tolist()), matched.split(lengths.tolist()), strict=True):
        here, there = (voxel_coordinates(x).double() for x in (one, other))
        assert torch.equal(torch.cdist(here, here).square().round(), torch.cdist(there, there).square().round())
        rotated += not torch.equal(here, there)
    assert rotated == 4  # all that have points
    assert not torch.equal(whole, task._views(batch)[0].points)


def test_hidden_points_fill_blocks():
    """60% of the blocks of each event, rounded down, and all points of these. Breaks if the mask is of other points
    than the rows, or if it hides what it should show."""
    batch = make_batch([150, 0, 90])
    whole, views = make_task()._views(batch)
    blocks = voxel_coordinates(whole.points) // CONFIG.mask_block
    hidden = views.hidden[-240:]
    assert not views.hidden[:-240].any() and views.rows[-240:].tolist() == list(range(240))
    for of_event, masked in zip(blocks.split([150, 90]), hidden.split([150, 90]), strict=True):
        which, number = of_event.unique(dim=0, return_inverse=True)
        hidden_blocks = number[masked].unique()
        assert len(hidden_blocks) == int(0.6 * len(which)) and torch.isin(number, hidden_blocks).equal(masked)


def test_energies_are_jittered_independently():
    """Breaks if the student's noise is the teacher's."""
    own = (partial(jitter_energies, largest=0.1),)
    (whole, _), (points, _, _), views = seen(make_task(own=own), make_batch([150, 90]))
    differences = points[:, 3] - whole[views.rows, 3]
    assert differences.std() > 0.003 and torch.equal(points[:, :3], whole[views.rows, :3])


def test_shared_augmentations_come_first():
    """Both see the same points of an event that lost some. Breaks if the events are cut before."""
    half = lambda batch: CloudBatch(batch.points[:60], torch.tensor([60]), index=batch.index)  # noqa: E731
    (whole, _), _, views = seen(make_task(augmentations=(half,)), make_batch([150]))
    assert len(whole) == 60 and views.rows.max() == 59


def test_training_draws_anew():
    """Loss, crops and masks of a batch change with the global generator, and the loss repeats with its state. Breaks if
    one of them comes from a generator that no checkpoint holds."""
    task, batch = make_task(own=(lattice_symmetry,)), make_batch([200, 150])
    one, other = (task._views(batch)[1] for _ in range(2))
    assert not torch.equal(one.rows, other.rows) and not torch.equal(one.hidden[-350:], other.hidden[-350:])
    state = torch.get_rng_state()
    first, second = task.step(batch).loss, task.step(batch).loss
    assert first != second
    torch.set_rng_state(state)
    assert torch.equal(task.step(batch).loss, first)


@torch.no_grad()
def test_evaluation_repeats_itself_whatever_the_batch():
    """Crops, masks, assignments and sums of an event are its own; no random numbers are drawn. Events without points
    change nothing."""
    task = make_task(own=(lattice_symmetry,))
    task.model.eval()
    batch = make_batch([120, 0, 90], first=4, skipped=2)
    state = torch.get_rng_state()
    whole = task.step(batch)
    rows = [task.step(replace(batch, points=p, lengths=n, index=k, skipped=0)).outputs for p, n, k in events(batch)]
    assert torch.equal(state, torch.get_rng_state()) and task.counts == {BAD: 2, TOO_SMALL: 0}
    for name, value in whole.outputs.items():
        torch.testing.assert_close(torch.cat([row[name] for row in rows]), value, rtol=1e-5, atol=1e-5)
    assert whole.weight == int(whole.outputs["matched"].sum()) > 210 and whole.outputs["matched"][1] == 0
    numbers = task.metrics(whole.outputs, 0.0)
    assert list(numbers) == ["loss", "prototypes"] and numbers["loss"] == pytest.approx(float(whole.loss), rel=1e-5)
    assert not torch.equal(task._views(batch)[1].hidden, task._views(replace(batch, index=batch.index + 1))[1].hidden)


def events(batch):
    return zip(batch.points.split(batch.lengths.tolist()), batch.lengths.split(1), batch.index.split(1), strict=True)


@pytest.mark.parametrize("lengths", [[], [0, 0], [1]])
@pytest.mark.parametrize("training", [False, True])
def test_hardly_anything_to_learn_from(lengths, training):
    """A process's empty share, events without points: no weight, a finite loss, and a backward pass."""
    task = make_task()
    task.model.train(training)
    loss, weight, _ = task.step(make_batch(lengths))
    loss.backward()
    assert torch.isfinite(loss) and (weight > 0) == bool(sum(lengths))


@torch.no_grad()
def test_split_without_points():
    """Its loss is not a number, and the log says why."""
    task = make_task()
    task.model.eval()
    with task.collector(Evaluation("valid"), shared=False) as collector:
        collector.add(task.step(make_batch([0, 0])))
        metrics, outputs = collector.finish()
    assert all(value != value for value in metrics.values())
    assert task.why_missing(metrics, outputs)["loss"] == "no event has a point"


def test_teacher_follows_the_student():
    """At the pace of the fraction of the run that is done."""
    task = make_task()
    for weight in weights_of_student(task):
        weight.data += 1
    before = task.model.head.prototypes.clone()
    task.after_update(1.0)
    assert torch.equal(task.model.head.prototypes, before)
    task.after_update(0.0)
    assert torch.allclose(task.model.head.prototypes, before + 0.1)


def spread_after(steps):
    """Train on one event; return the entropy of the mean assignment, as a number of prototypes, and the metrics."""
    distillation = replace(CONFIG.distillation, prototypes=32, teacher_momentum=0.5)
    task, batch = make_task(distillation=distillation, unet=UNetConfig(4, 3, 1), mask_block=2), make_batch([150])
    optimizer = torch.optim.AdamW(weights_of_student(task), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        task.step(batch).loss.backward()
        optimizer.step()
        task.after_update(0.0)
    task.model.eval()
    with torch.no_grad():
        outputs = task.step(batch).outputs
    mean = outputs["assigned"].sum(0) / outputs["points"].sum()
    return float(torch.special.entr(mean).sum().exp()), task.metrics(outputs, 0.0)


def test_no_collapse(monkeypatch):
    """After 20 steps most of the 32 prototypes are in use, and tell points apart. The control is the same training
    without even shares: it collapses onto a few of the prototypes, and has a loss near 0."""
    used, numbers = spread_after(20)
    assert used > 20 and numbers["prototypes"] > 7
    plain = lambda cosines, temperature, shared=True: (cosines / temperature).softmax(1)  # noqa: E731
    monkeypatch.setattr(self_distillation, "even_assignments", plain)
    used, numbers = spread_after(20)
    assert used < 5 and numbers["loss"] < 0.1
