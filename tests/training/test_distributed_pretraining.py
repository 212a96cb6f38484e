"""Pretraining of PoLAr-MAE on two processes: the same training as on one."""

import train_pointmae as script
from puffin.tasks import masked_modelling
from tests.training.test_distributed import check_same_training, run_two, state
from tests.training.two_processes import CLOUDS, flags, hide_the_first


def test_same_training_as_one_process(small_clouds, tmp_path, monkeypatch):
    """Weights, statistics, losses and metrics agree to rounding, although the last batch is empty on one process.

    The test sets the masks, which each process would draw by itself. Breaks if the energy term, a mean over points, is
    averaged over the processes with their numbers of tokens as weights.
    """
    run_two("clouds", small_clouds, tmp_path)
    monkeypatch.setattr(masked_modelling, "random_mask", hide_the_first)
    script.main(flags(str(small_clouds), str(tmp_path / "one"), *CLOUDS, "--batch-size", "4"))
    check_same_training(state(tmp_path / "one", "clouds.pt"), state(tmp_path / "two", "clouds.pt"))
