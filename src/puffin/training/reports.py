"""What the trainer tells to whoever writes tables and pictures."""

from puffin.training.task import Progress
from puffin.training.update import Update


class Reports:
    """What the trainer tells while it trains; this one ignores everything."""

    def after_step(self, epoch: int, progress: Progress, update: Update, lr: float) -> None:
        """Take the numbers of an update; epoch: counted from 1."""

    def after_row(self, history: list[dict]) -> None:
        """Take all rows so far, after a new one; the model has the weights with which it is evaluated."""

    def before_checkpoint(self) -> None:
        """Prepare for a checkpoint; InputError if it must not be written."""
