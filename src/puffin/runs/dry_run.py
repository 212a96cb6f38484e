"""--dry-run: show what a run would do, and how long it would take, from a few steps of it. Nothing is written."""

import copy
import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import yaml

from puffin.errors import plural
from puffin.files import size_in_words
from puffin.runs.outputs import Evaluator
from puffin.runs.run import Run
from puffin.training import distributed
from puffin.training.pace import peak_memory
from puffin.training.trainer import Trainer
from puffin.training.update import Updater, autocast

_MEASURED = 4  # steps whose mean time counts, after a first one, which is slower


def show_run(run: Run, evaluator: Evaluator, rounds: int) -> None:
    """Print the settings, the events, the size of the network, and the time and memory that the run needs.

    rounds: evaluations at the end, of the final and of the best network. With several processes all of them measure,
    and process 0 prints. Probes, pictures and tables are not timed."""
    trainer, datasets = evaluator.trainer, evaluator.datasets
    batches = {split: run.loader(dataset)[1].batches_per_epoch for split, dataset in datasets.items()}
    steps, validations = (0, 0) if run.start.evaluating else _remaining(run, trainer, len(datasets["train"]))
    evaluated = rounds * sum(batches[split] for split in evaluator.splits) + validations * batches.get("valid", 0)
    lines = [f"{split}: {plural(len(d), 'event')} of {', '.join(map(str, d.files))}" for split, d in datasets.items()]
    number = sum(p.numel() for p in trainer.task.model.parameters())
    lines.append(f"network: {type(trainer.task.model).__name__} with {number:,} parameters, on {run.device}")
    if steps:
        one = _seconds_of_one(_training_steps(run, trainer, datasets["train"]))
        lines.append(f"training: {plural(steps, 'step')} of {one:.2g} s take {time_in_words(steps * one)}")
    if evaluated:
        one = _seconds_of_one(_evaluated_batches(run, trainer, datasets[evaluator.splits[0]]))
        lines.append(
            f"evaluation: {plural(evaluated, 'minibatch')} of {one:.2g} s take {time_in_words(evaluated * one)}"
        )
    lines.append(f"peak memory of these steps: {size_in_words(peak_memory(run.device))}")
    earlier = run.paths.of_earlier_run()
    if earlier and not (run.start.evaluating or run.start.resuming):
        lines.append(f"the run would replace {plural(len(earlier), 'file')} of an earlier run '{run.paths.prefix}'")
    if distributed.is_main():
        preset = run.start.flags.preset(of_run=True)
        print(yaml.safe_dump(preset, sort_keys=True, default_flow_style=None, width=110))
        print("\n".join([*lines, "nothing was written"]))


def time_in_words(seconds: float) -> str:
    """Return a time as text, for example "3.2 minutes"."""
    for unit, length in (("seconds", 60), ("minutes", 60), ("hours", 24)):
        if seconds < length:
            return f"{seconds:.2g} {unit}"
        seconds /= length
    return f"{seconds:.1f} days"


def _remaining(run: Run, trainer: Trainer, events: int) -> tuple[int, int]:
    """Return how many steps and validations are left of a training."""
    o = run.settings.optimisation
    per_epoch = math.ceil(events / (o.batch_size * distributed.num_ranks() * o.accumulate))
    steps = max((o.num_step or o.num_epoch * per_epoch) - trainer.progress.step, 0)
    return steps, math.ceil(steps / (o.valid_every or per_epoch))


def _seconds_of_one(steps: Iterator[None]) -> float:
    """Return the mean time of a few steps."""
    times = [time.perf_counter()]
    for _ in islice(steps, _MEASURED + 1):
        times.append(time.perf_counter())
    first = 1 if len(times) > 2 else 0
    return (times[-1] - times[first]) / max(len(times) - 1 - first, 1)


def _training_steps(run: Run, trainer: Trainer, dataset: Any) -> Iterator[None]:
    """Make updates of the weights, one at a time."""
    o, progress = run.settings.optimisation, copy.deepcopy(trainer.progress)
    update = Updater(trainer.task, trainer.optimizer, o.clip, run.device, trainer.options.amp, lambda: False)
    trainer.task.model.train()
    loader = run.loader(dataset, training=True)[0]
    batches = iter(loader)
    while group := list(islice(batches, o.accumulate)):
        update(group, trainer.schedule(progress.step), progress)  # it waits for the device
        yield


@torch.no_grad()
def _evaluated_batches(run: Run, trainer: Trainer, dataset: Any) -> Iterator[None]:
    """Evaluate minibatches, one at a time."""
    trainer.task.model.eval()
    loader = run.loader(dataset)[0]
    for batch in loader:
        with autocast(run.device, trainer.options.amp):
            output = trainer.task.step(batch.to(run.device, run.dtype))
        output.loss.item()  # waits for the device
        yield
