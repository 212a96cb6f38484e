"""Pretraining on two processes: the same training as on one."""

import train_pointmae as script
from tests.training.test_distributed import check_same_training, run_two, state
from tests.training.two_processes import CLOUDS, draw_nothing, flags


def test_same_training_as_one_process(small_clouds, tmp_path, monkeypatch):
    """Weights, statistics, losses and metrics agree to rounding, although the last batch is empty on one process.

    The test sets masks and crops, which each process would draw by itself. Breaks if a term that is a mean over points
    or voxels is averaged over the processes with their numbers of tokens or blocks as weights, or if a process gives
    prototypes equal shares of its own points.
    """
    run_two("clouds", small_clouds, tmp_path)
    draw_nothing(monkeypatch.setattr)
    for network, own in CLOUDS.items():
        work = tmp_path / network
        script.main(flags(str(small_clouds), str(work / "one"), *own, "--batch-size", "4"))
        check_same_training(state(work / "one", "clouds.pt"), state(work / "two", "clouds.pt"))
