"""The files of a run, named after its prefix."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from puffin.data.splits import NAMES
from puffin.settings.common import PLOT_FORMATS, RunSettings
from puffin.tasks.calibration import Calibration

_EVENT_PICTURE = re.compile(r"(step\d+|end|eval\..+)\.event\d+\.(\w+\.(png|pdf|svg)|html)")
_TEMPORARY = re.compile(r"(_best)?\..*\.[a-z0-9_]{8}\.\w+")  # after the prefix


@dataclass(frozen=True)
class RunPaths:
    """The files of a run, from its prefix and folders."""

    prefix: str
    logdir: Path
    modeldir: Path
    predictdir: Path

    @classmethod
    def of(cls, settings: RunSettings) -> "RunPaths":
        """Return the paths that the settings of a run describe."""
        work = Path(settings.workdir)
        return cls(settings.prefix, work / settings.logdir, work / settings.modeldir, work / settings.predictdir)

    @property
    def log(self) -> Path:
        """The log."""
        return self.logdir / f"{self.prefix}.log"

    @property
    def settings(self) -> Path:
        """All settings, as a preset."""
        return self.logdir / f"{self.prefix}.yaml"

    @property
    def epochs(self) -> Path:
        """Table with a row per epoch."""
        return self.logdir / f"{self.prefix}.epochs.csv"

    @property
    def batches(self) -> Path:
        """Table with a row per step."""
        return self.logdir / f"{self.prefix}.batches.csv"

    @property
    def picture(self) -> Path:
        """Curves of the run."""
        return self.logdir / f"{self.prefix}.png"

    @property
    def symmetry(self) -> Path:
        """The symmetry report of the trained network, with --test."""
        return self.logdir / f"{self.prefix}.symmetry.txt"

    @property
    def folder(self) -> Path:
        """TensorBoard files and pictures of events."""
        return self.logdir / self.prefix

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.modeldir / f"{self.prefix}.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.modeldir / f"{self.prefix}_best.pt"

    @property
    def calibrations(self) -> tuple[Path, ...]:
        """The files beside the checkpoints that --calibrate writes."""
        return tuple(Calibration.path(checkpoint) for checkpoint in (self.checkpoint, self.best))

    def table(self, weights: str) -> Path:
        """Return the table of all runs whose prefix has the same beginning, up to a dash; weights: best or final."""
        return self.logdir / f"{self.prefix.split('-')[0]}.{weights.capitalize()}.metrics.csv"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which the run writes."""
        return self.logdir, self.modeldir, self.predictdir

    def predictions(self, weights: str, split: str, events: str = "") -> Path:
        """Return the path of prediction files without their endings; events: name of what an evaluation evaluates."""
        return self.predictdir / ".".join(filter(None, (self.prefix, weights, split, events)))

    def pictures_of_events(self) -> list[Path]:
        """Return the pictures of events that exist; other files of the folder, such as TensorBoard's, are not
        among them."""
        return sorted(path for path in self.folder.glob("*.event*") if _EVENT_PICTURE.fullmatch(path.name))

    def unfinished(self) -> list[Path]:
        """Return the temporary files that killed processes of this run have left (see files.py)."""
        literal = glob.escape(self.prefix)
        files = (f for folder in self.folders for f in folder.glob(f".{literal}[._]*") if f.is_file())
        return sorted(f for f in files if _TEMPORARY.fullmatch(f.name[1 + len(self.prefix) :]))

    def of_earlier_run(self) -> list[Path]:
        """Return the existing files that a new run of the same prefix replaces."""
        files = [self.log, self.settings, self.epochs, self.batches, self.picture, self.symmetry]
        files += [self.checkpoint, self.best, *self.calibrations]
        files += [self.picture.with_suffix(f".{ending}") for ending in PLOT_FORMATS[1:]]
        found = [path for path in files if path.exists()] + self.pictures_of_events()
        literal = glob.escape(self.prefix)  # which may hold a * of its own
        for weights in ("best", "final"):
            found += sorted(self.predictdir.glob(f"{literal}.{weights}.*"))
        return found


def name_of_events(sources: Sequence[str | Path]) -> str:
    """Return a name for the events that are evaluated, from the paths of their files or folder.

    A file with the name of a split is called after its folder: run12/test.h5 and run12 are both "run12"."""
    if not sources:
        return ""
    path = Path(sources[0]).resolve()
    stem = path.stem if path.suffix in (".h5", ".hdf5") else path.name
    if stem.lower() in {name for names in NAMES.values() for name in names}:
        stem = path.parent.name or stem
    further = len(sources) - 1
    return f"{stem}-and-{further}-more" if further else stem
