"""Pretraining of PoLAr-MAE on two processes: the same training as on one."""

import pytest

import train_pointmae as script
from src.tasks import clouds
from tests.cli.test_segmentation_script import data  # noqa: F401  (a fixture)
from tests.conftest import relative
from tests.training.test_distributed import end_of, start_two, state
from tests.training.two_processes import CLOUDS, flags, hide_the_first


def test_same_training_as_one_process(data, tmp_path, monkeypatch):  # noqa: F811
    """Weights, statistics, losses and metrics to rounding, although the last batch is empty on one process; masks, which each
    process draws for itself, are given. Breaks if the energy term, a mean over points, is averaged over the processes with
    the numbers of their tokens."""
    processes = start_two("clouds", data, tmp_path)
    errors = end_of(processes)
    assert [p.returncode for p in processes] == [0, 0], errors
    monkeypatch.setattr(clouds, "random_mask", hide_the_first)
    script.main(flags(str(data), str(tmp_path / "one"), *CLOUDS, "--batch-size", "4"))
    one, two = state(tmp_path / "one", "clouds.pt"), state(tmp_path / "two", "clouds.pt")
    assert one["model_state"].keys() == two["model_state"].keys()
    for name, value in one["model_state"].items():
        assert relative(two["model_state"][name].double(), value.double()) < 1e-8, name
    for a, b in zip(one["progress"]["history"], two["progress"]["history"], strict=True):
        for name in set(a) - {"train_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-9), name
