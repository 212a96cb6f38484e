"""The opening of a run: the places it will write to, the files of an earlier run, the log."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from puffin.checkpoints.reading import checkpoint_path
from puffin.checkpoints.writing import git_commit
from puffin.errors import InputError, plural
from puffin.files import whole_file
from puffin.ops import library
from puffin.runs.places import check_places
from puffin.runs.run import Run
from puffin.settings.flags import command
from puffin.training import distributed
from puffin.training.logs import start_logging
from puffin.training.task import Task

log = logging.getLogger("puffin")

_COPIES = 4  # of the weights in a checkpoint: weights, average, and two moments of the optimizer


def check_all_places(run: Run, task: Task, outputs: list[Path]) -> None:
    """Try all places in which a training will write; outputs: files of the evaluations at its end."""
    paths = run.paths
    files = [paths.log, paths.settings, paths.epochs, paths.batches, paths.picture, *outputs]
    size = 0
    if run.settings.run.save:
        files += [paths.checkpoint, paths.best]
        size = _COPIES * sum(p.numel() * p.element_size() for p in task.model.parameters())
        size -= sum(path.stat().st_size for path in (paths.checkpoint, paths.best) if path.exists())
    check_places(files, size)


def remove_earlier_run(run: Run) -> None:
    """List and delete the files of an earlier run with the same prefix.

    InputError if the run starts from one of them."""
    paths, start = run.paths, run.start
    earlier = paths.of_earlier_run()
    for path in earlier:
        if path.is_dir():
            raise InputError(f"{path}: expected a file of an earlier run, found a folder; rename or remove it")
    for flag in ("loadfile", "pretrained"):
        source = start.flags.values.get(flag, "")
        file = checkpoint_path(source)
        if source and file.exists() and any(path.samefile(file) for path in earlier):
            raise InputError(
                f"--{flag} {source} belongs to the run '{paths.prefix}' that would be replaced; choose another --prefix"
            )
    if earlier:
        log.warning(
            f"replacing {plural(len(earlier), 'file')} of an earlier run '{paths.prefix}' (resume it with --load): "
            f"{', '.join(map(str, earlier))}"
        )
        for path in earlier:
            path.unlink(missing_ok=True)


def open_log(run: Run) -> None:
    """Open the log file, and write what is run, where, and with which settings."""
    settings, paths, start = run.settings, run.paths, run.start
    appending = start.evaluating or (start.resuming and not start.resuming_another)
    start_logging(settings.reports.log_level, paths.log, append=appending)
    log.info(f"command: {command()}")
    ranks, batch_size = distributed.num_ranks(), settings.optimisation.batch_size
    if ranks > 1:
        log.info(
            f"{ranks} processes with minibatches of {batch_size}: {ranks * batch_size} events per global minibatch"
        )
    log.info(
        f"commit {git_commit() or 'unknown'}, PyTorch {torch.__version__}, {run.device}, {settings.machine.dtype}, "
        f"{torch.get_num_threads()} threads, seed {settings.run.seed}"
    )
    preset = yaml.safe_dump(start.flags.preset(of_run=True), sort_keys=True, default_flow_style=None, width=110)
    if not start.evaluating:
        log.info(f"run {start.run_id or 'without identity, as it was started by an older version'}")
        with whole_file(paths.settings) as temporary:
            temporary.write_text(preset, encoding="utf-8")
    for note in start.notes:
        log.info(note)
    log.info("kernels: " + ", ".join(f"{name} {state}" for name, state in library.states().items()))
    log.debug("settings:\n" + preset)


def describe(task: Task, datasets: Mapping[str, Any]) -> None:
    """Log the size of the network and of the splits."""
    number = sum(p.numel() for p in task.model.parameters())
    events = ", ".join(f"{split} {len(dataset)}" for split, dataset in datasets.items())
    log.info(f"{type(task.model).__name__} with {number:,} parameters; events: {events}")
