"""Segmentation as a task: sums over a split, hard events, files of predictions."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from puffin.data.events import EventDataset
from puffin.data.packing import CloudBatch
from puffin.data.pilarnet import CloudSelection
from puffin.errors import InputError
from puffin.losses.clouds import LossTerms
from puffin.models.segmentation import Segmentation
from puffin.settings.clouds import SegmentationConfig
from puffin.settings.encoder import VOXEL, EncoderConfig, TokenizerConfig, TransformerConfig
from puffin.tasks.segmentation import BAD, DROPPED, NO_TOKENS, TOO_SMALL, PointSegmentation, SegmentationOptions
from puffin.training.task import Evaluation
from tests.layers.clouds import tracks

TOKENS = TokenizerConfig(3 * VOXEL, context=40, group_size=8, upscale=16)
WEIGHT = torch.tensor([1.0, 2.0, 30.0, 5.0])


class Places:
    """The part of a data set that predictions need: every event is of the second file."""

    files = (Path("a.h5"), Path("b.h5"))
    selection = CloudSelection(energy_threshold=0.2)

    @staticmethod
    def places(index):
        return np.ones(len(index), np.int64), index.numpy() + 100


class Labels(list):
    """The part of a data set that the check of classes needs: events whose points have known classes."""

    batches = EventDataset.batches

    def __getitems__(self, numbers):
        return SimpleNamespace(semantic=torch.cat([torch.tensor(self[k]) for k in numbers]))


def make_task(terms=("focal", "nll", "dice"), **options):
    torch.manual_seed(2)
    config = SegmentationConfig(EncoderConfig(TOKENS, TransformerConfig("vit_tiny", 1)), layers=(0,), head_dim=16)
    loss = LossTerms({name: 1.0 + k for k, name in enumerate(terms)}, WEIGHT)
    return PointSegmentation(
        Segmentation(config).double().eval(),
        loss,
        {"valid": Places},
        SegmentationOptions(checkpoints={"best": Path("/m/x_best.pt")}, **options),
    )


def make_batch(lengths, first=0, **more):
    points, counts = tracks(lengths, dtype=torch.float64)
    rows = torch.cat([torch.arange(n) * 2 for n in [0, *lengths]]).long()
    return CloudBatch(
        points, counts, torch.arange(len(points)) % 3, index=torch.arange(first, first + len(lengths)), row=rows, **more
    )


def parts_of(batch):
    """Its events, one to a batch, in another order."""
    columns = [x.split(batch.lengths.tolist()) for x in (batch.points, batch.semantic, batch.row)]
    for k in reversed(range(len(batch))):
        points, semantic, row = (column[k] for column in columns)
        yield CloudBatch(points, batch.lengths[k : k + 1], semantic, index=batch.index[k : k + 1], row=row)


@torch.no_grad()
def evaluate(task, batches, stem=None):
    with task.collector(Evaluation("valid", "best", stem), shared=False) as collector:
        for batch in batches:
            collector.add(task.step(batch))
        return collector.finish()


def test_split_is_summed_exactly():
    """Losses (dice too, which is no mean) and counts of a split do not depend on its batches; a class that no
    point has is
    nan. Breaks if values of batches are averaged."""
    task, whole = make_task(), make_batch([120, 0, 90, 1])
    one, outputs = evaluate(task, [whole])
    many, others = evaluate(task, parts_of(whole))
    assert many == pytest.approx(one, rel=1e-12, nan_ok=True) and torch.equal(outputs["confusion"], others["confusion"])
    assert one["loss"] == pytest.approx(float(task.step(whole).loss.detach()), rel=1e-12)
    assert one["loss"] == pytest.approx(one["loss_focal"] + 2 * one["loss_nll"] + 3 * one["loss_dice"], rel=1e-12)
    assert outputs["confusion"].sum() == 211 and outputs["confusion"].sum(1)[3] == 0
    assert "loss_dice" not in evaluate(make_task(["dice"]), [whole])[0]


def test_hard_events():
    """Without a point, with one: counted, and without influence on the others. A batch of nothing has a loss
    of 0, and a
    gradient, as a process's share may be such."""
    task = make_task(["dice", "focal"])
    alone = make_batch([120])
    among = replace(alone, lengths=torch.tensor([0, 120, 0]), index=torch.arange(3), skipped=2)
    torch.testing.assert_close(
        *(task.step(batch).outputs["particle_probability"] for batch in (alone, among)), rtol=1e-12, atol=0
    )
    assert task.counts == {NO_TOKENS: 2, DROPPED: 0, BAD: 2, TOO_SMALL: 0}
    task.model.train()
    for lengths in ([], [0, 0]):
        out = task.step(make_batch(lengths))
        assert out.weight == 0 and torch.isfinite(out.loss) and out.outputs == {}
        out.loss.backward()
    task.step(make_batch([2000]))
    assert task.counts[DROPPED] > 0


def test_training_turns_events():
    """The loss of a batch changes with the global generator, whose state checkpoints hold, and repeats with it."""
    task, batch = make_task(), make_batch([200, 150])
    task.model.train()
    state = torch.get_rng_state()
    first, second = task.step(batch).loss, task.step(batch).loss
    torch.set_rng_state(state)
    assert first != second and torch.equal(task.step(batch).loss, first)


def test_augmentations_of_training_events():
    """In training they are applied in their order; an evaluation sees the events as they are."""
    seen = []

    def shorten(batch):
        seen.append(len(batch.points))
        return replace(batch, points=batch.points[:-20], lengths=batch.lengths - 20, semantic=batch.semantic[:-20])

    def same(batch):
        seen.append(len(batch.points))
        return batch

    task = make_task(augmentations=(shorten, same))
    assert task.step(make_batch([150])).weight == 150 and not seen
    task.model.train()
    assert task.step(make_batch([150])).weight == 130 and seen == [150, 130]


@pytest.mark.parametrize("metric", ["f1", "recall", "iou"])
def test_best_by_of_an_absent_class(metric):
    """The start refuses a number of a class that no validation point has: it would be 0 or nan in every epoch."""
    task = make_task(best_by=f"{metric}_michel")
    task.datasets = {"valid": Labels([[0, 1]] * 70 + [[0, 2]])}
    task.check_best_by(None, None, "valid")
    task.datasets = {"valid": Labels([[0, 1]] * 70)}
    with pytest.raises(InputError, match=f"--best-by {metric}_michel: .*no point of them is of class michel"):
        task.check_best_by(None, None, "valid")
    make_task(best_by="f1_macro").check_best_by(None, None, "valid")
    assert f"{metric}_michel" not in task.details and "iou_track" in task.details


def test_reasons_for_missing_numbers():
    """An absent class and a split without points have a reason; without points the loss is nan, not 0."""
    task = make_task(["focal"])
    metrics, outputs = evaluate(task, [make_batch([120, 90])])
    outputs["confusion"][:, 3] = 0
    metrics = task.metrics(outputs["confusion"], [torch.ones(2)])
    reasons = task.why_missing(metrics, outputs)
    assert set(reasons) == {f"{m}_delta" for m in ("precision", "recall", "f1", "iou")}
    assert reasons["f1_delta"] == "no point is of class delta, or predicted as such"
    metrics, outputs = evaluate(task, [make_batch([0, 0])])
    assert np.isnan(metrics["loss"]) and set(task.why_missing(metrics, outputs).values()) == {"no event has a point"}
    task.loss = LossTerms({"nll": 1.0}, torch.tensor([0.0, 0.0, 0.0, 1.0]))
    metrics, outputs = evaluate(task, [make_batch([120])])
    assert np.isnan(metrics["loss"]) and task.why_missing(metrics, outputs)["loss"].startswith("the class weights")


def test_predictions(tmp_path):
    """The file holds every point of every event, in the order that came; an error leaves none, and nothing
    temporary."""
    task, whole = make_task(), make_batch([120, 0, 90])
    stem = tmp_path / "p" / "x.best.valid"
    numbers, outputs = evaluate(task, list(parts_of(whole))[::-1], stem)
    (tmp_path / "p/x.best.valid.h5").rename(tmp_path / "kept.h5")
    with h5py.File(tmp_path / "kept.h5") as file:
        assert file["ptr"][()].tolist() == [0, 120, 120, 210] and file["event"][()].tolist() == [100, 101, 102]
        assert (
            file["file"][()].tolist() == [1, 1, 1]
            and file.attrs["files"][1] == str(Path("b.h5").resolve())
            and list(file.attrs["classes"]) == list(task.names)
        )
        assert (
            file.attrs["checkpoint"] == "/m/x_best.pt"
            and file.attrs["energy_threshold"] == 0.2
            and file.attrs["remove_led"]
        )
        assert np.array_equal(file["row"], whole.row) and np.array_equal(file["truth"], whole.semantic)
        logits = task.model(whole.points, whole.lengths).logits
        assert np.array_equal(file["class"], logits.argmax(1))
        assert np.abs(file["probability"][()] - logits.softmax(1).detach().numpy()).max() < 1e-3
    with pytest.raises(KeyError):
        evaluate(task, [whole, Broken()], stem)
    assert list((tmp_path / "p").iterdir()) == []
    assert {path.name for path in task.save_outputs(Evaluation("valid", "best", stem), outputs)} == {
        "x.best.valid.h5",
        "x.best.valid_confusion.csv",
    }
    header, *rows = (tmp_path / "p/x.best.valid_confusion.csv").read_text().splitlines()
    assert header == "given_shower,given_track,given_michel,given_delta" and len(rows) == 4


class Broken:
    """A batch that fails when it is looked at."""

    @property
    def points(self):
        raise KeyError("points")
