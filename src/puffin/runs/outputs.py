"""What a run writes after an evaluation: tables of metrics, predictions, the picture of its curves."""

import glob
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.errors import DiskFull, InputError
from puffin.files import append_row
from puffin.plots.style import draw_to
from puffin.runs.paths import name_of_events
from puffin.runs.places import with_endings
from puffin.runs.side_outputs import SideOutputs
from puffin.runs.trackers import Trackers
from puffin.training import distributed
from puffin.training.task import Evaluation, Task
from puffin.training.trainer import Trainer

log = logging.getLogger("puffin")


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the splits of a run and writes what comes out; side: notes the outputs that fail; trackers: get the
    metrics."""

    run: Any
    trainer: Trainer
    task: Task
    datasets: Mapping[str, Any]
    side: SideOutputs
    trackers: Trackers

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate: the test split, and those of --predict."""
        predicted = self.run.settings.run.predict
        return [split for split in self.datasets if split == "test" or split in predicted]

    def stem(self, weights: str, split: str) -> Path | None:
        """Return the path of the prediction files of a split without their endings; None if none are asked for.

        Those of an evaluation are named after what it evaluates, so that they replace none of the training."""
        if split not in self.run.settings.run.predict:
            return None
        events = name_of_events(self.run.sources) if self.run.start.evaluating else ""
        return self.run.paths.predictions(weights, split, events)

    def check_overwriting(self, weights: str) -> None:
        """Raise InputError if outputs of an earlier evaluation would be replaced, unless --overwrite says so."""
        if self.run.settings.run.overwrite:
            return
        for split in self.splits:
            stem = self.stem(weights, split)
            found = [] if stem is None else sorted(stem.parent.glob(f"{glob.escape(stem.name)}[._]*"))
            if found:
                raise InputError(
                    f"{found[0]}: exists already, from an earlier evaluation; pass --overwrite to replace it, or "
                    "choose another --prefix or --predictdir"
                )

    def places(self, weights: str) -> list[Path]:
        """Return the files that an evaluation writes, or names as long as theirs."""
        stems = [stem for split in self.splits if (stem := self.stem(weights, split)) is not None]
        table = [self.run.paths.table(weights)] if self.run.settings.reports.summarize_csv != "none" else []
        return table + [path for stem in stems for path in with_endings(stem)]

    def evaluate(self, weights: str, run_id: str) -> dict[str, dict[str, Tensor]]:
        """Evaluate with the weights in place; write predictions and tables.

        weights: "best" or "final"; run_id: of the run that they are from. Returns the outputs by split (on process 0,
        which writes)."""
        everything: dict[str, dict[str, Tensor]] = {}
        for split in self.splits:
            evaluation = Evaluation(split, weights, self.stem(weights, split), run_id)
            evaluation, metrics, outputs = self._evaluated(evaluation)
            if not distributed.is_main():
                continue
            if "index" in outputs:  # counts the events in use; users have the rows of the files
                outputs["row"] = self.datasets[split].events[outputs["index"]]
            everything[split] = outputs
            shown = {name: value for name, value in metrics.items() if name not in self.task.details}
            numbers = {f"{weights}_{split}_{name}": value for name, value in metrics.items()}
            self.trackers.numbers(numbers, self.trackers.step)
            text = ", ".join(f"{name} {value:.6g}" for name, value in shown.items())
            log.info(f"{evaluation}: {text or 'no metrics, as the events have no labels'}")
            if evaluation.stem is not None:
                with self.side.attempt(f"predictions {evaluation.stem}.*"):
                    written = self.task.save_outputs(evaluation, outputs)
                    log.info("predictions: " + ", ".join(map(str, written)))
            if split == "test" and metrics and self.run.settings.reports.summarize_csv != "none":
                self._add_row(weights, metrics, run_id)
        return everything

    def outputs_of(self, split: str) -> dict[str, Tensor]:
        """Return the outputs for a split with the weights in place, on process 0; {} on the others. Nothing is
        written."""
        return self._evaluated(Evaluation(split, "calibration"))[2]

    def _evaluated(self, evaluation: Evaluation) -> tuple[Evaluation, dict[str, float], dict[str, Tensor]]:
        """Evaluate a split; if predictions cannot be written along the way, once more without them.

        Several processes cannot begin again together, so there the failure ends the run."""
        loader = self.run.loader(self.datasets[evaluation.split])[0]
        try:
            return evaluation, *self.trainer.evaluate(loader, evaluation)
        except (OSError, DiskFull) as error:
            if evaluation.stem is None or distributed.num_ranks() > 1:
                raise
            self.side.note(f"predictions {evaluation.stem}.*", error)
            evaluation = replace(evaluation, stem=None)
            return evaluation, *self.trainer.evaluate(loader, evaluation)

    def _add_row(self, weights: str, metrics: Mapping[str, float], run_id: str) -> None:
        table = self.run.paths.table(weights)
        row = {"prefix": self.run.paths.prefix, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S"), **metrics}
        row |= {"evaluated": " ".join(str(Path(source).resolve()) for source in self.run.sources), "run": run_id}
        with self.side.attempt(str(table)):
            append_row(table, row)
            log.info(f"metrics: {table}")


def own_best(run: Any) -> Checkpoint | None:
    """Return the checkpoint of the best epoch; None if there is none.

    InputError if another run has written it, for example in a folder that two machines share without its locks."""
    if not distributed.from_main(run.settings.run.save and run.paths.best.exists()):
        return None
    best = Checkpoint.read(run.paths.best)
    if best.run_id != run.start.run_id:
        raise InputError(
            f"{run.paths.best}: was written by another run ({best.run_id or 'of an older version'}) than this one "
            f"({run.start.run_id}), so it is not evaluated; the final network is {run.paths.checkpoint}"
        )
    return best


def draw_run(run: Any, draw: Callable | None, history: list[dict], outputs: Mapping[str, Any]) -> None:
    """Draw the curves of a finished run, if the settings ask for it."""
    formats = run.settings.reports.pictures
    if formats and draw is not None and history and distributed.is_main():
        files = draw_to(run.paths.picture, formats, lambda path: draw(path, history, outputs.get("test")))
        log.info(f"picture: {', '.join(map(str, files))}")
