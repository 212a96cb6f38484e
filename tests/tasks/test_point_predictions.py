"""Files of labelled points: what they cost while they grow."""

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import torch

from puffin.data.pilarnet import CloudSelection
from puffin.tasks.point_predictions import PointPredictions

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
