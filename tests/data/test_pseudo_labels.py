"""Training events that earlier runs have labelled: clouds and jets."""

import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from puffin.data.jets import JetDataset, JetSelection
from puffin.data.pilarnet import CloudDataset, CloudSelection
from puffin.data.pseudo_labels import SelfTrainingClouds, SelfTrainingJets, Teacher
from puffin.detector import PILARNET
from puffin.errors import InputError
from puffin.tasks.point_predictions import PointPredictions

SELECTION = CloudSelection(min_points=50, rows=True)
CLASSES = PILARNET.classes(True)


def opened(small_clouds, split, *events):
    """The events of a split, or some of them."""
    dataset = CloudDataset([small_clouds / split / "events_v2.h5"], SELECTION)
    if events:
        dataset.restrict(torch.tensor(events))
    return dataset


def teacher(path, dataset, seed, classes=CLASSES):
    """Write random probabilities for the points of a data set; return the teacher, and the probabilities by event."""
    generator, written = torch.Generator().manual_seed(seed), {}
    with PointPredictions(path, dataset, classes) as predictions:
        for number in range(len(dataset)):
            batch = dataset[number]
            probability = torch.rand(len(batch.points), len(classes), generator=generator).half()
            points = {"row": batch.row, "truth": batch.semantic, "class": probability.argmax(1)}
            rows = {f"particle_{name}": value for name, value in (points | {"probability": probability}).items()}
            predictions.append({"index": batch.index, "lengths": batch.lengths, **rows})
            written[int(dataset.events[number])] = probability.float()
    return Teacher(PointPredictions.path(path)), written


def test_labels_and_probabilities(small_clouds, tmp_path):
    """Labelled events keep their classes and are repeated; the others have the mean probabilities of their points.

    Breaks if the order of the events or of their points is lost, or if an event that one teacher lacks is used. A
    worker process gets the same."""
    labelled = opened(small_clouds, "train", 7, 2)
    first, a = teacher(tmp_path / "a", opened(small_clouds, "train"), 1)
    second, b = teacher(tmp_path / "b", opened(small_clouds, "train", 9, 2, 4, 0, 1), 2)
    dataset = SelfTrainingClouds(labelled, [first, second], CLASSES, 0.5)
    assert dataset.mixture == (2, 4, 2) and len(dataset) == 8
    assert dataset.events.tolist() == [2, 7, 2, 7, 0, 1, 4, 9]
    numbers = [7, 1, 4, 0, 6]
    batch = pickle.loads(pickle.dumps(dataset))[numbers]
    assert batch.semantic.shape == (len(batch.points), 4) and batch.index.tolist() == numbers
    whole = opened(small_clouds, "train")
    for number, points, found in zip(
        numbers, batch.points.split(batch.lengths.tolist()), batch.semantic.split(batch.lengths.tolist()), strict=True
    ):
        event = int(dataset.events[number])
        assert torch.equal(points, whole[event].points)
        truth = F.one_hot(whole[event].semantic, 4).float()
        expected = truth if event in (2, 7) else (a[event] + b[event]) / 2
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    dataset.close()
    assert torch.equal(dataset[numbers].semantic, batch.semantic)  # opens the files again


def test_events_of_other_files(small_clouds, tmp_path):
    """Unlabelled events may come from another file; few of them are not outnumbered by repeated labelled ones."""
    further, written = teacher(tmp_path / "a", opened(small_clouds, "val"), 1)
    dataset = SelfTrainingClouds(opened(small_clouds, "train"), [further], CLASSES, 0.25)
    assert dataset.mixture == (10, len(written), 1)
    batch = dataset[len(dataset) - 1]
    torch.testing.assert_close(batch.semantic, written[max(written)], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "b", "c", "d")}, r"has classes \('a', 'b', 'c', 'd'\), but this run has"),
        ({"selection": replace(SELECTION, energy_threshold=0.5)}, "has energy_threshold 0.5, but this run has 0.13"),
        ({"events": (3, 4)}, "no event to train on, apart from the 2 labelled ones"),
    ],
)
def test_wrong_teachers(small_clouds, tmp_path, change, message):
    """Each error names the file."""
    source = opened(small_clouds, "train", *change.get("events", ()))
    source.selection = change.get("selection", SELECTION)
    wrong, _ = teacher(tmp_path / "wrong", source, 1, change.get("classes", CLASSES))
    with pytest.raises(InputError, match=f"wrong.h5: {message}"):
        SelfTrainingClouds(opened(small_clouds, "train", 3, 4), [wrong], CLASSES, 0.25)


def test_other_points(small_clouds, tmp_path):
    """A teacher whose file has changed since, or that saw other points, is an error and no silent shift of labels."""
    found, _ = teacher(tmp_path / "wrong", opened(small_clouds, "train"), 1)
    dataset = SelfTrainingClouds(opened(small_clouds, "train", 3), [found], CLASSES, 0.25)
    found.read = lambda place: (np.arange(3), np.zeros((3, 4), np.float16))
    with pytest.raises(InputError, match="has other points of event 0 of .*events_v2.h5 than this run"):
        dataset[dataset.mixture.repeats]


def test_no_predictions(small_clouds, tmp_path):
    """Any other file is refused, and one of an older version, which does not say which points were removed."""
    teacher(tmp_path / "old", opened(small_clouds, "train"), 1)
    with h5py.File(tmp_path / "old.h5", "a") as file:
        del file.attrs["remove_led"]
    with pytest.raises(InputError, match="old.h5: .*remove_led.*; evaluate the network again"):
        Teacher(tmp_path / "old.h5")
    with pytest.raises(InputError, match="events_v2.h5: key 'file' not found"):
        Teacher(small_clouds / "train" / "events_v2.h5")
    with pytest.raises(InputError, match="missing.h5"):
        Teacher(tmp_path / "missing.h5")


@pytest.mark.parametrize("in_memory", [True, False])
def test_jets(small_jets, tmp_path, in_memory):
    """Labelled jets are repeated and certain; the others have the probabilities of their rows, and need no labels."""
    with h5py.File(small_jets / "valid.h5") as file, h5py.File(tmp_path / "unlabelled.h5", "w") as other:
        other["Pmu"] = file["Pmu"][:30]
    labelled = JetDataset([small_jets / "train.h5"], JetSelection(in_memory=in_memory))
    labelled.restrict(torch.tensor([5, 90]))
    rows, probabilities = torch.tensor([29, 3, 4, 8]), torch.rand(4, 2, dtype=torch.float64)
    dataset = SelfTrainingJets(labelled, tmp_path / "unlabelled.h5", rows, probabilities, 0.5)
    assert dataset.mixture == (2, 4, 2) and len(dataset) == 8
    batch, valid = dataset[[3, 4, 6]], JetDataset([small_jets / "valid.h5"], JetSelection())[[29, 4]]
    assert torch.equal(batch.fourmomenta[: batch.lengths[0]], labelled[1].fourmomenta)
    assert torch.equal(batch.fourmomenta[batch.lengths[0] :], valid.fourmomenta)
    assert batch.target[0].tolist() == F.one_hot(labelled[1].target, 2)[0].tolist()
    torch.testing.assert_close(batch.target[1:], probabilities[[0, 2]].float())
    with pytest.raises(InputError, match="unlabelled.h5: has 30 jets, fewer than were predicted"):
        SelfTrainingJets(labelled, tmp_path / "unlabelled.h5", rows + 1, probabilities, 0.5)
