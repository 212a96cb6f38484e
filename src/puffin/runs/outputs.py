"""What a run writes: tables of metrics, predictions, TensorBoard files, pictures."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from puffin.files import append_row, whole_file
from puffin.training import distributed
from puffin.training.task import Evaluation, Task
from puffin.training.trainer import Trainer

log = logging.getLogger("puffin")
Report = Callable[[list[dict]], None]


def evaluate_and_save(run, trainer: Trainer, task: Task, datasets: Mapping[str, Any], weights: str) -> dict[str, dict]:
    """Evaluate the test split, and those of --predict, with the weights in place; write predictions and tables.

    weights: "best" or "final". Returns the outputs by split (on process 0, which writes)."""
    everything: dict[str, dict[str, Tensor]] = {}
    predicted = run.settings.run.predict
    for split in datasets:
        if split != "test" and split not in predicted:
            continue
        stem = run.paths.predictions(weights, split) if split in predicted else None
        evaluation = Evaluation(split, weights, stem)
        metrics, outputs = trainer.evaluate(run.loader(datasets[split])[0], evaluation)
        if not distributed.is_main():
            continue
        if "index" in outputs:  # counts the events in use; users have the rows of the files
            outputs["row"] = datasets[split].events[outputs["index"]]
        everything[split] = outputs
        log.info(f"{evaluation}: " + ", ".join(f"{k} {v:.6g}" for k, v in metrics.items()))
        if stem is not None:
            log.info("predictions: " + ", ".join(map(str, task.save_outputs(stem, outputs))))
        if split == "test" and run.settings.reports.summarize_csv != "none":
            table = run.paths.table(weights)
            row = {"prefix": run.paths.prefix, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S"), **metrics}
            append_row(table, row)
            log.info(f"metrics: {table}")
    return everything


def draw_run(run, draw: Callable | None, history: list[dict], outputs: Mapping[str, Any]) -> None:
    """Draw the curves of a finished run, if the settings ask for it."""
    if run.settings.reports.plot and draw is not None and history and distributed.is_main():
        with whole_file(run.paths.picture) as temporary:
            draw(temporary, history, outputs.get("test"))
        log.info(f"picture: {run.paths.picture}")


class EpochReports:
    """A context that writes the numbers of each epoch to a CSV file and to TensorBoard, as the settings ask for.

    further: called with all rows after each epoch."""

    def __init__(self, run, further: Report | None):
        reports, optimisation = run.settings.reports, run.settings.optimisation
        self.by_step = bool(optimisation.valid_every or optimisation.num_step)
        self.csv = run.paths.epochs if reports.summarize_csv == "all" else None
        self.board, self.further = None, further
        if reports.summarize and distributed.is_main():
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.board = SummaryWriter(run.paths.folder)

    def add(self, history: list[dict]) -> None:
        """Write the last of all rows. The CSV file is written anew, so that a resumed run repeats no row."""
        if not distributed.is_main():
            return
        row = history[-1]
        if self.board is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self.board.add_scalar(name, value, row["step"] if self.by_step else row["epoch"])
            self.board.flush()
        if self.csv is not None:
            with whole_file(self.csv) as temporary:
                lines = [",".join(row)] + [",".join(str(v) for v in r.values()) for r in history]
                temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if self.further is not None:
            self.further(history)

    def __enter__(self) -> "EpochReports":
        return self

    def __exit__(self, *error) -> None:
        if self.board is not None:
            self.board.close()
