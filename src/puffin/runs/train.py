"""The course of a run: training and evaluation of a task, from settings to output files."""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.reading import checkpoint_path
from puffin.errors import InputError
from puffin.runs.dry_run import show_run
from puffin.runs.ending import summary
from puffin.runs.opening import check_all_places, describe, open_log, remove_earlier_run
from puffin.runs.outputs import Evaluator, draw_run, own_best
from puffin.runs.places import check_places
from puffin.runs.reports import EventPictures, Report, RunReports
from puffin.runs.resuming import load_checkpoint, where_it_resumes
from puffin.runs.run import Run
from puffin.runs.run_lock import RunLock
from puffin.runs.side_outputs import SideOutputs
from puffin.runs.trackers import Trackers
from puffin.training import distributed
from puffin.training.task import Task

log = logging.getLogger("puffin")


def train_and_evaluate(
    run: Run,
    task: Task,
    datasets: Mapping[str, Any],
    draw: Callable | None = None,
    report: Report | None = None,
    pictures: EventPictures | None = None,
    prepare: Callable[[Evaluator, Checkpoint], None] | None = None,
) -> list[dict]:
    """Train a task on the splits (or only evaluate it) and write every output; return one row of numbers per epoch.

    draw(file, history, outputs): draws a finished run from its rows and the test outputs of the best epoch.
    report(all rows so far): called after each epoch, once its checkpoint is written; if it raises, the run ends.
    pictures: draws events after some epochs, and last of all with the evaluated weights.
    prepare(evaluator, checkpoint): called before each evaluation of a checkpoint, with its weights in place.
    MissingOutputs if the run has finished, but some outputs could not be written."""
    evaluating = run.start.evaluating
    loader, batches = (None, None) if evaluating else run.loader(datasets["train"], training=True)
    trainer = run.trainer(task, batches.batches_per_epoch if batches else 1)
    notes = load_checkpoint(run, trainer, datasets)
    side = SideOutputs()
    trackers = Trackers(run, side)
    evaluator = Evaluator(run, trainer, task, datasets, side, trackers)
    if run.settings.machine.compile:
        task.model.compile(dynamic=True)
    if run.settings.run.dry_run:
        show_run(run, evaluator, len(_evaluated_files(run)) if evaluating else 2)
        return []
    with ExitStack() as stack:
        # all settings are checked before this line, which writes the first file
        check = _open(run, evaluator, stack) if distributed.is_main() else lambda: None
        for note in notes:
            log.warning(note)
        describe(task, datasets)
        stack.enter_context(trackers)
        history: list[dict] = []
        outputs: Mapping[str, Any] = {}
        if evaluating:
            evaluate_checkpoints(evaluator, prepare)
        else:
            with RunReports(run, task, side, trackers, pictures, report, check) as reports:
                trainer.reports = reports
                reports.start(trainer.progress)
                valid = run.loader(datasets["valid"])[0] if "valid" in datasets else None
                history = trainer.fit(loader, batches, valid)
            outputs = evaluate_trained(evaluator)
        with side.attempt(f"picture {run.paths.picture}"):
            draw_run(run, draw, history, outputs)
        if pictures is not None:
            with side.attempt("pictures of events"):
                pictures.at_end()
        drawn = [path for path in run.paths.pictures_of_events() if path.suffix == ".png"]
        trackers.files([run.paths.picture, *drawn], [run.paths.checkpoint, run.paths.best])
    _check_best(task, history)
    if distributed.is_main():
        for line in summary(run):
            log.info(line)
    side.check(history)
    return history


def _open(run: Run, evaluator: Evaluator, stack: ExitStack) -> Callable[[], None]:
    """Take the run's files, try its places and open its log; return a function that checks that they are still its.

    An evaluation needs no lock, as it replaces nothing."""
    start = run.start
    if start.evaluating:
        weights = list(_evaluated_files(run))
        for name in weights:
            evaluator.check_overwriting(name)
        check_places([run.paths.log, *(path for name in weights for path in evaluator.places(name))])
        open_log(run)
        return lambda: None
    check_all_places(run, evaluator.task, [*evaluator.places("best"), *evaluator.places("final")])
    lock = stack.enter_context(RunLock(run.paths.prefix, run.paths.folders))
    if start.resuming and not start.checkpoint.is_current():
        raise InputError(f"{start.checkpoint.path}: was written again while it was read; give the command once more")
    for path in run.paths.unfinished():
        path.unlink(missing_ok=True)
    if not start.resuming or start.resuming_another:
        remove_earlier_run(run)
    open_log(run)
    if start.resuming:
        for line in where_it_resumes(run, evaluator.trainer):
            log.info(line)
    return lock.check


def evaluate_trained(evaluator: Evaluator) -> dict[str, Any]:
    """Evaluate the final and the best network of a training; return the outputs of the best one, by split."""
    run = evaluator.run
    outputs = evaluator.evaluate("final", run.start.run_id)
    best = own_best(run)
    if best is not None:
        best.load_into(evaluator.task.model)
        evaluator.trainer.average.switch_off()  # the weights of the checkpoint are already the averaged ones
        log.info(f"best epoch: {best.best_epoch}")
        outputs = evaluator.evaluate("best", run.start.run_id)
    return outputs


def evaluate_checkpoints(evaluator: Evaluator, prepare: Callable[[Evaluator, Checkpoint], None] | None = None) -> None:
    """Evaluate the checkpoint of --loadfile, or the final and the best one of the run; see `train_and_evaluate`."""
    run = evaluator.run
    missing = [split for split in run.settings.run.predict if split not in evaluator.datasets]
    if missing:
        log.warning(f"--predict: found no {' and no '.join(missing)} events")
    first = run.start.checkpoint
    assert first is not None  # an evaluation starts from one
    for weights, path in _evaluated_files(run).items():
        checkpoint = first if path == first.path else Checkpoint.read(path)
        checkpoint.load_into(evaluator.task.model)
        evaluator.trainer.average.switch_off()
        if prepare is not None:
            prepare(evaluator, checkpoint)
        evaluator.evaluate(weights, checkpoint.run_id)


def _evaluated_files(run: Run) -> dict[str, Path]:
    """Return the files of the "final" and the "best" weights; the pictures are of the last one."""
    if run.settings.run.loadfile:
        return {"best": checkpoint_path(run.settings.run.loadfile)}
    files = {"final": run.paths.checkpoint, "best": run.paths.best}
    return {name: path for name, path in files.items() if path.exists()}


def _check_best(task: Task, history: list[dict]) -> None:
    """Raise InputError if no epoch of a training had a number for the metric that chooses the best one."""
    name = f"valid_{task.best_by}"
    values = [row[name] for row in history if name in row]
    if values and all(math.isnan(value) for value in values):
        raise InputError(
            f"--best-by {task.best_by}: was not a number in any of the {len(values)} validations, so there is no best "
            "epoch; the last network is kept and evaluated. Choose another metric, or look at the validation data"
        )
