#!/usr/bin/env python3
"""Search for good flags of a training script, on one machine or on many.

Example (ten short trainings on real simulated jets, two at a time; a few minutes on a laptop):
  python3 optuna_search.py --task classifier --study-name tops --num-trials 10 -j 2 --nobj 20 --num-epoch 4 --cpu
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.runs.run import run_script
from puffin.sweeps.command import SweepTask, run_sweep
from puffin.tasks.classification import JetClassification
from puffin.tasks.masked_modelling import MaskedModelling
from puffin.tasks.regression import MomentumRegression
from puffin.tasks.segmentation import PointSegmentation

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
