"""Files of labelled points: what they cost while they grow, and their confusion matrices."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from puffin.data.pilarnet import CloudSelection
from puffin.errors import InputError
from puffin.tasks.point_predictions import PointPredictions, read_confusions

POINTS = 10_000  # of a batch of one event


class Places:
    """The part of a data set that predictions need."""

    files, selection = (Path("a.h5"),), CloudSelection()

    @staticmethod
    def places(index):
        return np.zeros(len(index), np.int64), index.numpy()


def batch(number):
    """Tensors in memory that NumPy took, as tracemalloc does not see PyTorch's."""
    zeros = np.zeros(POINTS, np.int64)
    rows = {"particle_row": np.arange(POINTS), "particle_truth": zeros, "particle_class": zeros}
    rows |= {"index": np.array([number]), "lengths": np.array([POINTS])}
    rows |= {"particle_probability": np.full((POINTS, 4), number / 1000, np.float16)}
    return {name: torch.from_numpy(value) for name, value in rows.items()}


def test_memory_does_not_grow(tmp_path):
    """After 200 batches as after 20, within the size of three of them.

    Breaks if batches, or views of them, are kept."""
    kept = {}
    tracemalloc.start()
    try:
        with PointPredictions(tmp_path / "x", Places, ("a", "b", "c", "d")) as predictions:
            for number in range(200):
                predictions.append(batch(number))
                if number in (19, 199):
                    kept[number] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept[199] - kept[19] < 3 * POINTS * (4 + 1 + 1 + 8)
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["ptr"][-1] == 200 * POINTS and file["probability"][-1, 0] == np.float16(0.199)


def test_confusions(tmp_path):
    """Each event has its own matrix, in the order of files and rows, whatever the order of the minibatches."""
    lengths, places = torch.tensor([3, 0, 2]), [(1, 7), (0, 9), (0, 2)]
    dataset = SimpleNamespace(
        files=(Path("a/x.h5"), Path("a/y.h5")),
        selection=CloudSelection(),
        places=lambda index: (np.array(places)[index.numpy(), 0], np.array(places)[index.numpy(), 1]),
    )
    points = {"row": torch.arange(5), "truth": torch.tensor([0, 1, 1, 1, 0]), "class": torch.tensor([0, 1, 0, 1, 1])}
    rows = {f"particle_{name}": value for name, value in points.items()} | {"particle_probability": torch.zeros(5, 2)}
    with PointPredictions(tmp_path / "x", dataset, ("a", "b")) as predictions:
        predictions.append({"index": torch.arange(3), "lengths": lengths, **rows})
    found = read_confusions(tmp_path / "x.h5")
    assert found.places == [("x.h5", 2), ("x.h5", 9), ("y.h5", 7)]
    assert found.confusions.tolist() == [[[0, 1], [0, 1]], [[0, 0], [0, 0]], [[1, 0], [1, 1]]]


def test_no_predictions(tmp_path):
    """A missing file, and a file of something else, are errors that say so."""
    with pytest.raises(InputError, match="x.h5: no such file. Pass predictions of points"):
        read_confusions(tmp_path / "x.h5")
    with h5py.File(tmp_path / "y.h5", "w"):
        pass
    (tmp_path / "z.h5").write_text("x")
    for name in ("y.h5", "z.h5"):
        with pytest.raises(InputError, match=f"{name}: expected predictions of points by train_segmentation.py"):
            read_confusions(tmp_path / name)
