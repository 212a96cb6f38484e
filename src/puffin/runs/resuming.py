"""What a run takes over from the checkpoint that it starts from."""

from collections.abc import Mapping
from typing import Any

import torch

from puffin.errors import InputError, plural
from puffin.runs.run import Run
from puffin.training import distributed
from puffin.training.trainer import Trainer


def load_checkpoint(run: Run, trainer: Trainer, datasets: Mapping[str, Any]) -> list[str]:
    """Load the weights, or when resuming the whole state of the training; return warnings for the log."""
    start, model = run.start, trainer.task.model
    notes = []
    if start.checkpoint is not None and (changes := start.flags.changes_from(start.checkpoint.settings, start.purpose)):
        notes.append(f"settings that differ from those of {start.checkpoint.path}: {', '.join(changes)}")
    if start.checkpoint is not None and not start.resuming:
        start.checkpoint.load_into(model)
    if distributed.rank() > 0:  # the same weights on every process, but different dropout
        torch.manual_seed(run.settings.run.seed + distributed.rank())
    if not start.resuming:
        return notes
    checkpoint = start.checkpoint
    state = checkpoint.resumable()
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{checkpoint.path}: the run cannot be resumed from it, as it is damaged or belongs to another network: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    progress = trainer.progress
    changed = changes_of_best(start.flags.values, checkpoint.settings)
    if changed:
        notes.append(
            f"{', '.join(changed)}: earlier epochs cannot be compared; the best epoch is chosen from the next "
            "validation on"
        )
    if changed or checkpoint.path != run.paths.checkpoint:
        progress.best = {}  # judged by other settings, or a file of another run
    if progress.train_events not in (0, len(datasets["train"])):
        raise InputError(
            f"--load: expected the {progress.train_events} training events with which the run was started, got "
            f"{len(datasets['train'])}; give the same --datadir and --num-train, or start a new run from its weights: "
            f"--loadfile {checkpoint.path} without --load, with another --prefix"
        )
    if checkpoint.num_processes != distributed.num_ranks():
        notes.append(
            f"the run was on {plural(checkpoint.num_processes, 'process')}, now on {distributed.num_ranks()}: it "
            "continues, "
            "but is not bitwise identical"
        )
    return notes


def changes_of_best(values: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return the changed flags of a resumed run that affect which epoch is the best."""
    names = ["best_by", "weights_key", "num_valid"] + ["loss", "class_weights"] * (values["best_by"] == "loss")
    return [
        f"--{name.replace('_', '-')} {values[name]} instead of {stored[name]}"
        for name in names
        if name in values and name in stored and values[name] != stored[name]
    ]


def where_it_resumes(run: Run, trainer: Trainer) -> list[str]:
    """Return lines for the log: whose run continues, from where, with which data, and whether it had finished."""
    p, checkpoint = trainer.progress, run.start.checkpoint
    datadir = run.settings.data.datadir
    lines = [f"resuming at epoch {p.epoch + 1}, batch {p.batch} (step {p.step}), with the data of {datadir}"]
    writer = checkpoint.settings.get("prefix", run.paths.prefix)
    if run.start.resuming_another or writer != run.paths.prefix:
        lines.append(
            f"the checkpoint {checkpoint.path} was written by the run '{writer}'; it continues here under the "
            f"name '{run.paths.prefix}'"
        )
    if trainer.finished():
        lines.append(
            f"the run has finished already ({plural(len(p.history), 'row')}, step {p.step}): nothing is trained, only "
            "evaluated; "
            "to train longer, give more --num-epoch or --num-step"
        )
    return lines
