"""Experiment trackers: TensorBoard, Weights & Biases, MLflow. They get metrics, settings, pictures and checkpoints.

Where they write, and whether to a server, is set by their own environment variables (docs/track_runs.md). What they
fail to write is noted like any other side output, and the run goes on.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from puffin.errors import InputError, missing_package
from puffin.runs.side_outputs import SideOutputs
from puffin.settings.common import TRACKERS
from puffin.training import distributed

PROJECT = "puffin"  # of Weights & Biases, and the experiment of MLflow


class Tracker(Protocol):
    """One tracker that follows one run."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by name."""

    def picture(self, path: Path, step: int) -> None:
        """Record a PNG picture, under its name."""

    def artefact(self, path: Path) -> None:
        """Record a file."""

    def close(self, failed: bool) -> None:
        """End the record."""


class Trackers:
    """A context in which the trackers of the settings follow a training; on process 0 alone.

    run: the run; side: notes what could not be written."""

    def __init__(self, run: Any, side: SideOutputs):
        self.run, self.side, self.step = run, side, 0
        chosen = trackers_of(run.settings.reports)
        for name in chosen:
            need_tracker(name)
        self.names = chosen if distributed.is_main() and not run.start.evaluating else ()
        self._open: dict[str, Tracker] = {}

    def start(self) -> None:
        """Open the trackers and record the settings."""
        for name in self.names:
            with self.side.attempt(f"tracker {name}"):
                self._open[name] = KINDS[name](self.run)

    def numbers(self, values: Mapping[str, Any], step: int) -> None:
        """Record the numbers among the values."""
        self.step = step
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        self._each(lambda tracker: tracker.numbers(numbers, step))

    def files(self, pictures: Sequence[Path], checkpoints: Sequence[Path]) -> None:
        """Record the files of a finished run that exist; checkpoints only if the settings ask for it."""
        for path in filter(Path.exists, pictures):
            self._each(lambda tracker, path=path: tracker.picture(path, self.step))
        for path in filter(Path.exists, checkpoints if self.run.settings.reports.track_checkpoints else ()):
            self._each(lambda tracker, path=path: tracker.artefact(path))

    def _each(self, record: Callable[[Tracker], None]) -> None:
        for name, tracker in self._open.items():
            with self.side.attempt(f"tracker {name}"):
                record(tracker)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type | None, *error) -> None:
        self._each(lambda tracker: tracker.close(kind is not None))


def trackers_of(reports: Any) -> tuple[str, ...]:
    """Return the names of the trackers of report settings, each once."""
    return tuple(dict.fromkeys((*reports.tracker, *(["tensorboard"] if reports.summarize else []))))


def need_tracker(name: str) -> None:
    """Raise InputError if the package of a tracker is not installed."""
    if importlib.util.find_spec(name) is None:
        raise InputError(f"--tracker {name}: {missing_package(name)}")


class TensorBoard:
    """TensorBoard files in LOGDIR/PREFIX/. A checkpoint is not copied: its path is recorded."""

    def __init__(self, run: Any):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.writer = SummaryWriter(run.paths.folder)
        self.writer.add_text("settings", f"```\n{yaml.safe_dump(run.start.flags.preset(of_run=True))}```")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, path: Path, step: int) -> None:
        """Record a picture."""
        from matplotlib.image import imread

        self.writer.add_image(path.stem, imread(path), step, dataformats="HWC")

    def artefact(self, path: Path) -> None:
        """Record where the file is."""
        self.writer.add_text("checkpoints", str(path))

    def close(self, failed: bool) -> None:
        """Close the files."""
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, which has the identity of our run: a resumed run continues it."""

    def __init__(self, run: Any):
        import wandb

        run.paths.folder.mkdir(parents=True, exist_ok=True)
        self.record = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.paths.prefix,
            id=run.start.run_id or None,
            resume="allow",
            dir=run.paths.folder,
            config=run.start.flags.preset(of_run=True),
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )
        self.record.define_metric("*", step_metric="step")  # its own steps cannot go back when a run is resumed

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by name."""
        self.record.log({**values, "step": step})

    def picture(self, path: Path, step: int) -> None:
        """Record a picture."""
        import wandb

        self.record.log({path.stem: wandb.Image(str(path)), "step": step})

    def artefact(self, path: Path) -> None:
        """Record a file as an artefact of the kind model."""
        self.record.log_artifact(str(path), name=path.stem, type="model")

    def close(self, failed: bool) -> None:
        """Send what is left and end the record."""
        self.record.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow; a resumed run continues it. Without MLFLOW_TRACKING_URI it is in LOGDIR/mlflow.db."""

    def __init__(self, run: Any):
        logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs every table that it creates
        from mlflow import MlflowClient

        folder = run.paths.logdir.resolve()
        own = "MLFLOW_TRACKING_URI" not in os.environ
        self.client = MlflowClient(f"sqlite:///{folder}/mlflow.db" if own else None)
        experiment = self.client.get_experiment_by_name(PROJECT)
        place = (folder / "mlruns").as_uri() if own else None
        number = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT, place)
        tags = {"puffin.run": run.start.run_id or run.paths.prefix}
        earlier = self.client.search_runs([number], f"tags.`puffin.run` = '{tags['puffin.run']}'")
        self.id = (earlier or [self.client.create_run(number, run_name=run.paths.prefix, tags=tags)])[0].info.run_id
        if earlier:
            self.client.update_run(self.id, "RUNNING")
        else:  # the settings of a run cannot be changed
            for name, value in run.start.flags.preset(of_run=True).items():
                self.client.log_param(self.id, name, value)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by name."""
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def picture(self, path: Path, step: int) -> None:
        """Record a picture."""
        self.client.log_artifact(self.id, str(path), "pictures")

    def artefact(self, path: Path) -> None:
        """Record a file."""
        self.client.log_artifact(self.id, str(path), "checkpoints")

    def close(self, failed: bool) -> None:
        """End the record."""
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


KINDS: dict[str, Callable[[Any], Tracker]] = dict(zip(TRACKERS, (TensorBoard, WeightsAndBiases, MLflow), strict=True))
