"""Masked modelling as a task: masks, counts, numbers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from puffin.data.augment import any_rotation, lattice_symmetry
from puffin.data.packing import CloudBatch
from puffin.errors import InputError
from puffin.models.voxel_mae import masked_autoencoder
from puffin.settings.clouds import BACKBONES, PointMAEConfig
from puffin.settings.encoder import VOXEL, EncoderConfig, TokenizerConfig, TransformerConfig
from puffin.settings.unet import UNetConfig
from puffin.tasks.masked_modelling import DROPPED, FAINT, MaskedModelling, fixed_mask
from puffin.tasks.pretraining import BAD, TOO_SMALL
from puffin.tasks.token_probe import TokenProbe
from puffin.training.task import Evaluation, Progress
from tests.layers.clouds import tracks

VALID = Evaluation("valid")
TOKENS = TokenizerConfig(3 * VOXEL, context=40, group_size=8, upscale=16)


CONFIGS = {
    "transformer": PointMAEConfig(
        EncoderConfig(TOKENS, TransformerConfig("vit_tiny", 1, drop_path=0.1)), decoder_depth=1
    ),
    "unet": PointMAEConfig(backbone="unet", unet=UNetConfig(4, 4, 1), geometry=True, mask_block=4),
}
both = pytest.mark.parametrize("backbone", BACKBONES)


def make_task(backbone="transformer", **settings):
    """A masked autoencoder of two blocks of a transformer, or of a narrow U-Net."""
    return MaskedModelling(masked_autoencoder(CONFIGS[backbone]), seed=3, **settings)


def make_batch(lengths, first=0, skipped=0):
    points, counts = tracks(lengths)
    return CloudBatch(points, counts, index=torch.arange(first, first + len(lengths)), skipped=skipped)


@both
def test_faint_events_are_counted_and_do_not_matter(backbone):
    """Events without points, or with one token or block, give no loss and change no other's.

    Breaks if one of them is encoded."""
    task = make_task(backbone)
    task.model.eval()
    whole = make_batch([120, 90])
    a, b = whole.points.split([120, 90])
    point = torch.zeros(1, 4)
    mixed = CloudBatch(
        torch.cat([a, point, b]), torch.tensor([0, 120, 1, 90]), index=torch.tensor([5, 0, 6, 1]), skipped=2
    )
    alone, among = task.step(whole), task.step(mixed)
    assert alone.weight == among.weight > 0 and torch.allclose(alone.loss, among.loss, rtol=1e-5)
    assert task.counts == {FAINT: 2, DROPPED: 0, BAD: 2, TOO_SMALL: 0}
    rows = {k: v[among.outputs["index"].argsort()] for k, v in among.outputs.items()}
    for name, value in alone.outputs.items():
        assert torch.allclose(rows[name][:2].float(), value.float(), rtol=1e-5), name
        assert name == "index" or not rows[name][2:].any()


def test_small_events_are_told_once():
    """Those of training with its first row, those of a split with its first evaluation.

    Breaks if they are told every epoch."""
    task, told = make_task(too_small={"train": 3, "valid": 2, "test": 1}), []
    for evaluation in (None, VALID, None, VALID, Evaluation("test", "final"), Evaluation("test", "best")):
        if evaluation is None:
            task.step(make_batch([50]))
        else:
            task.begin_evaluation(evaluation, Progress())
        told.append(task.counts[TOO_SMALL])
        task.counts[TOO_SMALL] = 0
    assert told == [3, 2, 0, 0, 1, 0]


@both
@pytest.mark.parametrize("lengths", [[], [0, 0], [1]])
def test_nothing_to_learn_from(backbone, lengths):
    """A batch of faint events, or a process's empty share: no weight, and a backward pass that gives no gradient."""
    task = make_task(backbone)
    loss, weight, _ = task.step(make_batch(lengths))
    assert weight == 0 and torch.isfinite(loss)
    loss.backward()
    assert not any(p.grad is not None and p.grad.any() for p in task.model.parameters())


def test_tokens_beyond_the_context_are_counted():
    """Breaks if the count is of another place than the tokens."""
    task = make_task()
    task.step(make_batch([3000]))
    assert task.counts[DROPPED] > 0


@both
def test_evaluation_repeats_itself_whatever_the_batch(backbone):
    """The mask of an event is its own: the same in every batch and call, different for each event, and the random
    sequence of training is left alone. Breaks if a common generator is drawn from."""
    lengths = torch.tensor([50, 50, 3])
    mask = fixed_mask(lengths, 0.6, 1, torch.tensor([4, 9, 2]))
    state = torch.get_rng_state()
    assert torch.equal(mask[50:100], fixed_mask(lengths[1:2], 0.6, 1, torch.tensor([9])))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(mask[:50], mask[50:100]) and mask.split(lengths.tolist())[2].sum() == 1
    assert not torch.equal(mask, fixed_mask(lengths, 0.6, 2, torch.tensor([4, 9, 2])))
    task = make_task(backbone)
    task.model.eval()
    state = torch.get_rng_state()
    one, other = (task.step(make_batch([120, 90])).outputs for _ in range(2))
    assert all(torch.equal(one[k], other[k]) for k in one) and torch.equal(state, torch.get_rng_state())


@both
def test_training_turns_and_masks_anew(backbone):
    """The loss of the same batch changes with the global generator, and repeats with its state. Breaks if the rotation
    or the mask comes from a generator that no checkpoint holds."""
    rotation = any_rotation if backbone == "transformer" else lattice_symmetry
    task, batch = make_task(backbone, augmentations=(rotation,)), make_batch([200, 150])
    state = torch.get_rng_state()
    first, second = task.step(batch).loss, task.step(batch).loss
    assert first != second
    torch.set_rng_state(state)
    task.model.load_state_dict(task.model.state_dict())
    assert torch.equal(task.step(batch).loss, first)


@both
def test_augmentations_are_for_training(backbone):
    """Training events are augmented in order, events of an evaluation are not."""
    calls = []
    steps = tuple(lambda batch, k=k: calls.append(k) or batch for k in range(2))
    task = make_task(backbone, augmentations=steps)
    task.step(make_batch([50]))
    task.model.eval()
    task.step(make_batch([50]))
    assert calls == [0, 1]


@both
def test_metrics(backbone):
    """Means over all hidden tokens, points or voxels of a split, not over batches: batches of different sizes agree
    with one."""
    task = make_task(backbone)
    task.model.eval()
    lengths = [120, 90, 300]
    points, counts = tracks(lengths)
    whole = task.step(CloudBatch(points, counts, index=torch.arange(3)))
    parts = [
        task.step(CloudBatch(p, counts[k : k + 1], index=torch.tensor([k]))).outputs
        for k, p in enumerate(points.split(lengths))
    ]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    numbers, again = task.metrics(whole.outputs, 0.0), task.metrics(joined, 0.0)
    terms = {"transformer": ["chamfer"], "unet": ["occupancy_2", "occupancy_1"]}[backbone]
    assert list(numbers) == ["loss", *terms, "energy"] and numbers == pytest.approx(again, rel=1e-5)
    assert numbers["loss"] == pytest.approx(float(whole.loss.detach()), rel=1e-5)


def test_when_to_probe():
    """Every so many steps in training, at the first validation that is due; always afterwards; never on training
    events."""

    class Probe:
        names, calls = ("shower",), []

        def __call__(self, model, split):
            self.calls.append(split)
            return {"probe_f1_shower": 0.5, "probe_f1_mean": 0.5}

    task, found = make_task(probe=Probe(), probe_every=10), []
    history = []
    for step in (4, 8, 12, 16, 25):
        task.begin_evaluation(VALID, Progress(step=step, history=history))
        found.append(task.metrics({}, 0.0)["probe_f1_mean"] == 0.5)
        history.append({"step": step})
    assert found == [False, False, True, False, True]
    for evaluation in (Evaluation("test", "best"), Evaluation("train", "final")):
        task.begin_evaluation(evaluation, Progress(step=25, history=history))
        task.metrics({}, 0.0)
    assert Probe.calls == ["valid", "valid", "test"]
    assert task.metric_directions["probe_f1_mean"] == 1


@both
def test_no_masked_token_is_no_perfect_loss(backbone):
    """A split of events with one token has no loss, and says why. Breaks if its loss is 0, which would be the best."""
    task = make_task(backbone)
    task.model.eval()
    with torch.no_grad(), task.collector(VALID, shared=False) as collector:
        collector.add(task.step(make_batch([1, 0])))
        metrics, outputs = collector.finish()
    assert all(map(math.isnan, metrics.values()))
    assert task.why_missing(metrics, outputs)["loss"].startswith("no event has two tokens")


class ClassesOfTokens(TokenProbe):
    """A probe whose tokens have known classes."""

    def __init__(self, train, valid):
        self.names, self.most, self.labels = ("shower", "track"), 100, {"train": train, "valid": valid}

    def samples(self, model, split):
        return [SimpleNamespace(labels=np.array(self.labels[split], bool).reshape(-1, 2))]


def test_best_by_of_a_class_that_the_probe_lacks():
    """The start refuses the probe's F1 of a class that its tokens lack; the others, and their mean, are accepted."""
    both, track = [[1, 0], [0, 1]], [[0, 1], [0, 1]]
    for train, valid, reason in (
        (both, track, "no valid token"),
        (track, both, "no training token"),
        ([[1, 1], [1, 0]], both, "every training token"),
    ):
        task = make_task(probe=ClassesOfTokens(train, valid), best_by="probe_f1_shower")
        with pytest.raises(InputError, match=f"--best-by probe_f1_shower: .*{reason}.* contains shower"):
            task.check_best_by(None, None, "valid")
        task.best_by = "loss"
        task.check_best_by(None, None, "valid")
    task = make_task(probe=ClassesOfTokens(both, track), best_by="probe_f1_mean")
    task.check_best_by(None, None, "valid")
    with pytest.raises(InputError, match="probe_f1_mean"):
        make_task(probe=ClassesOfTokens(track, []), best_by="probe_f1_mean").check_best_by(None, None, "valid")
    nan = dict.fromkeys(("probe_f1_shower", "probe_f1_track"), math.nan)
    assert task.why_missing(nan, {"hidden": torch.ones(1)}) == {}  # no probe was due
    task._probed_split = "valid"
    assert set(task.why_missing(nan, {"hidden": torch.ones(1)})) == {"probe_f1_shower"}
