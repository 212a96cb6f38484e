"""Calibration of a classifier before its evaluation: --calibrate and --working-point."""

import logging

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.errors import InputError
from puffin.runs.outputs import Evaluator
from puffin.settings.jets import ClassifierSettings
from puffin.tasks.calibration import EFFICIENCIES, Calibration
from puffin.tasks.classification import arrays_of
from puffin.training import distributed

log = logging.getLogger("puffin")


def check_calibration(settings: ClassifierSettings, evaluating: bool) -> None:
    """Raise InputError if --calibrate or --working-point make no sense."""
    run = settings.run
    for flag, given in (("--calibrate", run.calibrate), ("--working-point", run.working_point)):
        if given and not evaluating:
            raise InputError(f"{flag}: needs a trained network; train first, then use it with --eval")
    if run.working_point and settings.network.num_classes != 2:
        raise InputError(
            f"--working-point: needs two classes, and the network has {settings.network.num_classes}; cut on the "
            "probabilities in the predictions instead"
        )
    if 0 < run.working_point < EFFICIENCIES[0]:
        raise InputError(f"--working-point: expected 0, or {EFFICIENCIES[0]:g} to {EFFICIENCIES[-1]:g}")


def calibrate(evaluator: Evaluator, checkpoint: Checkpoint) -> None:
    """Give the task the calibration of a checkpoint, fitted to the validation jets or read from its file.

    The weights of the checkpoint are in place. InputError if there is no file to read."""
    run, task = evaluator.run.settings.run, evaluator.task
    task.calibration = None  # that of another checkpoint
    if run.calibrate:
        outputs = evaluator.outputs_of("valid")
        if distributed.is_main():
            task.calibration = Calibration.fit(*arrays_of(outputs), checkpoint.weights)
            path = task.calibration.write(checkpoint.path)
            log.info(f"calibration: temperature {task.calibration.temperature:.4g}, written to {path}")
    elif run.working_point:
        task.calibration = Calibration.read(checkpoint.path, checkpoint.weights)
    task.working_point = run.working_point
