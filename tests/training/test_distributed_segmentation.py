"""Segmentation on two processes: the same training and the same files as on one."""

import h5py
import numpy as np
import pytest

import train_segmentation as script
from tests.runs.helpers import row
from tests.training.test_distributed import check_same_training, run_two, state
from tests.training.two_processes import POINTS, flags


@pytest.fixture(scope="module")
def runs(small_clouds, tmp_path_factory):
    """Folder of a run on two processes, and of the same on one process with the same global batch."""
    work = tmp_path_factory.mktemp("points")
    run_two("points", small_clouds, work)
    script.main(flags(str(small_clouds), str(work / "one"), *POINTS, "--batch-size", "4"))
    return work


def test_same_training_as_one_process(runs):
    """Weights, statistics, losses and metrics agree to rounding, although the last batch is empty on one process.

    The losses are focal, dice and weighted nll. Breaks if dice is averaged over the processes, or if nll is averaged
    over points instead of their weights.
    """
    check_same_training(state(runs / "one", "points.pt"), state(runs / "two", "points.pt"), nan_ok=True)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_same_predictions(runs, split):
    """Every point once, in the order of the events, written by the first process."""
    with (
        h5py.File(runs / f"one/predict/points.final.{split}.h5") as one,
        h5py.File(runs / f"two/predict/points.final.{split}.h5") as two,
    ):
        assert len(one["event"]) == (9 if split == "train" else 7)
        for name in ("file", "event", "ptr", "row", "truth", "class"):
            assert np.array_equal(one[name], two[name]), name
        assert np.abs(one["probability"][()] - two["probability"][()]).max() < 2e-3


def test_evaluation_by_the_first_process_alone(runs):
    """--no-distribute-eval: the same numbers and files."""
    alone, both = row(runs / "alone/log/alone.Best.metrics.csv"), row(runs / "two/log/points.Final.metrics.csv")
    for name in list(both)[2:-2]:
        assert float(alone[name]) == pytest.approx(float(both[name]), rel=1e-9, nan_ok=True), name
    with (
        h5py.File(*(runs / "alone/predict").glob("alone.best.test.*.h5")) as a,
        h5py.File(runs / "two/predict/points.final.test.h5") as b,
    ):
        assert np.array_equal(a["class"], b["class"]) and np.array_equal(a["ptr"], b["ptr"])
