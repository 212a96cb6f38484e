"""What the trainer logs: rows of numbers, counts of a task, metrics that are missing."""

import logging
import math

from puffin.training import distributed
from puffin.training.task import Evaluation, Task

log = logging.getLogger("puffin")


class TrainingMessages:
    """The messages about a training. by_step: rows are named after their step, too."""

    def __init__(self, task: Task, num_epoch: int, by_step: bool):
        self.task, self.num_epoch, self.by_step = task, num_epoch, by_step
        self._explained: set[tuple[str, str]] = set()  # splits and reasons that the log has named

    def row(self, row: dict, is_best: bool) -> None:
        """Log the numbers of a row of the history."""
        hidden = ("epoch", "step", *(f"valid_{name}" for name in self.task.details))
        shown = ", ".join(f"{k} {v:.5g}" for k, v in row.items() if k not in hidden and not math.isnan(v))
        step = f" step {row['step']}" if self.by_step else ""
        log.info(f"epoch {row['epoch']}/{self.num_epoch}{step}: {shown}{'  *best*' if is_best else ''}")

    def counts(self, where: str, shared: bool = True) -> None:
        """Log what the task has counted, in all processes if `shared`, and set the counts to 0."""
        counts = self.task.counts
        totals = distributed.total(*counts.values()) if shared and counts else list(counts.values())
        text = "; ".join(f"{name}: {total:.0f}" for name, total in zip(counts, totals, strict=True) if total)
        if text:
            log.warning(f"{where}: {text}")
        counts.update(dict.fromkeys(counts, 0))

    def missing(self, evaluation: Evaluation, metrics: dict[str, float] | None, outputs: dict) -> None:
        """Say once for each split why some metrics are not numbers. metrics: None except on process 0."""
        names_of: dict[str, list[str]] = {}
        for name, reason in self.task.why_missing(metrics, outputs).items() if metrics else ():
            names_of.setdefault(reason, []).append(name)
        for reason, names in names_of.items():
            if (evaluation.split, reason) not in self._explained:
                self._explained.add((evaluation.split, reason))
                log.warning(f"{evaluation}: {reason}, so these metrics are not numbers: {', '.join(names)}")
