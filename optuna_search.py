#!/usr/bin/env python3
"""Search for good flags of a training script, on one machine or on many.

Example (ten short trainings on real simulated jets, two at a time; a few minutes on a laptop):
  python3 optuna_search.py --task classifier --study-name tops --num-trials 10 -j 2 --nobj 20 --num-epoch 4 --cpu
"""

from src.cli.run import run_script
from src.cli.sweep import SweepTask, run_sweep
from src.tasks.clouds import MaskedModelling
from src.tasks.jets import JetClassification
from src.tasks.momenta import MomentumRegression
from src.tasks.segmentation import PointSegmentation

TASKS = {
    "classifier": SweepTask("train_pelican_classifier", JetClassification.metric_directions, "AUC"),
    "cov": SweepTask("train_pelican_cov", MomentumRegression.metric_directions, "loss"),
    # losses of trials with other masks or tokens cannot be compared; the probe can, so each validation makes one
    "pointmae": SweepTask("train_pointmae", MaskedModelling.metric_directions, "probe_f1_mean", {"probe_every": 1}),
    "segmentation": SweepTask("train_segmentation", PointSegmentation.metric_directions, "f1_macro"),
}


def main(argv=None) -> None:
    """Parse the flags and run."""
    run_sweep(TASKS, __file__, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    run_script(main)
