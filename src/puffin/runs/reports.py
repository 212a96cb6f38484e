"""What a run reports while it trains: tables of steps and of epochs, and what the trackers get."""

import csv
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from puffin.files import whole_file
from puffin.runs.side_outputs import SideOutputs
from puffin.runs.trackers import Trackers
from puffin.training import distributed
from puffin.training.reports import Reports
from puffin.training.task import Progress, Task
from puffin.training.update import Update

Report = Callable[[list[dict]], None]


class EventPictures(Protocol):
    """Draws pictures of events."""

    def after_row(self, history: list[dict]) -> None:
        """Draw some, if they are due after these rows; the weights with which the model is evaluated are in place."""

    def at_end(self) -> None:
        """Draw those of a finished run, or of an evaluation."""


class RunReports(Reports):
    """A context that writes the numbers of each step and of each epoch, as the settings of the run ask for.

    side: notes what could not be written; trackers: get each row; pictures: drawn after each row; further: called with
    all rows after each one, and the run ends if it raises; check: called before each checkpoint, and raises InputError
    if the run must not write any more."""

    def __init__(
        self,
        run: Any,
        task: Task,
        side: SideOutputs,
        trackers: Trackers,
        pictures: EventPictures | None,
        further: Report | None,
        check: Callable[[], None],
    ):
        reports, optimisation = run.settings.reports, run.settings.optimisation
        writes = distributed.is_main()
        self.by_step = bool(optimisation.valid_every or optimisation.num_step)
        self.csv = run.paths.epochs if writes and reports.summarize_csv == "all" else None
        self.steps = StepTable(run.paths.batches, task) if writes and reports.summarize_csv == "all" else None
        self.side, self.trackers, self.pictures, self.further, self.check = side, trackers, pictures, further, check

    def start(self, progress: Progress) -> None:
        """Open the files; rows of steps after the checkpoint from which the run continues are removed."""
        self.trackers.start()
        if self.steps is not None:
            with self.side.attempt(str(self.steps.path)):
                self.steps.cut_back(progress.step)

    def after_step(self, epoch: int, progress: Progress, update: Update, lr: float) -> None:
        """Keep the row of a step, which is written before the next checkpoint."""
        if self.steps is not None:
            self.steps.add(epoch, progress, update, lr)

    def before_checkpoint(self) -> None:
        """Write the rows of the steps; InputError if the run must not write any more."""
        self.check()
        if self.steps is not None:
            with self.side.attempt(str(self.steps.path)):
                self.steps.write()

    def after_row(self, history: list[dict]) -> None:
        """Write the last of all rows. The CSV file is written anew, so that a resumed run repeats no row."""
        row = history[-1]
        numbers = {name: value for name, value in row.items() if name not in ("epoch", "step")}
        self.trackers.numbers(numbers, row["step"] if self.by_step else row["epoch"])
        if self.csv is not None:
            with self.side.attempt(str(self.csv)), whole_file(self.csv) as temporary:
                lines = [",".join(row)] + [",".join(str(v) for v in r.values()) for r in history]
                temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if self.pictures is not None:
            with self.side.attempt("pictures of events"):
                self.pictures.after_row(history)
        if self.further is not None and distributed.is_main():
            self.further(history)

    def __enter__(self) -> "RunReports":
        return self

    def __exit__(self, *error) -> None:
        if self.steps is not None:
            with self.side.attempt(str(self.steps.path)):
                self.steps.write()


class StepTable:
    """A CSV table with a row for each step. Rows are kept until `write`, so that a step does not wait for a disk."""

    COLUMNS = ("epoch", "batch", "step", "events", "loss", "lr", "gradient_norm", "events_per_second")

    def __init__(self, path: Path, task: Task):
        self.path, self.task = path, task
        self.rows: list[list] = []
        self.columns: list[str] | None = None
        self._last = time.perf_counter()

    def cut_back(self, step: int) -> None:
        """Remove the rows after a step, and a last row that was cut off, from the table of a resumed run."""
        self._last = time.perf_counter()
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8") as file:
            lines = list(_whole_lines(file))
        position = self.COLUMNS.index("step")
        kept = lines[:1] + [line for line in lines[1:] if int(line.split(",")[position]) <= step]
        self.columns = kept[0].strip().split(",") if kept else None
        if len(kept) < len(lines) or lines != kept:
            with whole_file(self.path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def add(self, epoch: int, progress: Progress, update: Update, lr: float) -> None:
        """Keep the row of a step: its events are those of all processes."""
        now = time.perf_counter()
        events = progress.batch_events * update.minibatches
        row = {
            "epoch": epoch,
            "batch": progress.batch,
            "step": progress.step,
            "events": events,
            "loss": f"{update.loss:.6g}",
            "lr": f"{lr:.6g}",
            "gradient_norm": f"{update.norm:.6g}",
            "events_per_second": f"{events / max(now - self._last, 1e-9):.1f}",
        } | {name: f"{value:.6g}" for name, value in self.task.batch_metrics(update.last).items()}
        self._last = now
        if self.columns is None:
            self.columns = list(row)
            self.rows.append(self.columns)
        self.rows.append([row.get(name, "") for name in self.columns])

    def write(self) -> None:
        """Append the kept rows to the file."""
        if not self.rows:
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.rows)
        self.rows = []
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text.getvalue())


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    return (line for line in lines if line.endswith("\n"))
