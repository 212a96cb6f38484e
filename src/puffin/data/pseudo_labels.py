"""Train on events without labels: jets, or points of clouds, get the class probabilities that earlier runs predicted.

Source: self-training with soft labels, Noisy Student, arXiv 1911.04252, sec. 2.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.data.hdf5 import open_dataset, open_hdf5
from puffin.data.jets import JetDataset
from puffin.data.packing import CloudBatch
from puffin.data.pilarnet import CloudDataset
from puffin.errors import InputError, first_line, plural

Place = tuple[Path, int]  # an event: its file, and its row there
_EXPECTED = "Expected predictions of points by train_segmentation.py, such as predict/NAME.best.test.EVENTS.h5."


class Mixture(NamedTuple):
    """Numbers of events with true labels and with pseudo-labels, and how often the former are repeated."""

    labelled: int
    further: int
    repeats: int

    @classmethod
    def of(cls, labelled: int, further: int, fraction: float) -> "Mixture":
        """Repeat the labelled events as a whole, so that they are about this fraction of all."""
        return cls(labelled, further, max(1, round(fraction * further / ((1 - fraction) * labelled))))

    def __str__(self) -> str:
        times = plural(self.repeats, "time")
        return (
            f"training events: {self.labelled} with true labels, used {times} per epoch, and {self.further} with "
            "pseudo-labels"
        )


class Teacher:
    """A file of predictions: class probabilities for the points of events.

    files: of the events; places: number of each event in the file of predictions; classes: names of the classes; cuts:
    which points were removed. InputError for any other file."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with open_hdf5(self.path) as file:
            of_event, rows, self._ptr = (
                open_dataset(file, self.path, name, _EXPECTED)[()] for name in ("file", "event", "ptr")
            )
            try:
                self.files = [Path(name) for name in file.attrs["files"]]
                self.classes = tuple(file.attrs["classes"])
                self.cuts = {name: file.attrs[name].item() for name in ("energy_threshold", "remove_led")}
            except KeyError as error:
                raise InputError(f"{self.path}: {first_line(error)}; evaluate the network again") from error
        places = ((self.files[k], int(row)) for k, row in zip(of_event, rows, strict=True))
        self.places = {place: number for number, place in enumerate(places)}
        self._file: h5py.File | None = None

    def read(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        """Read an event: rows (P,) of its points within the event of the file, probabilities (P, C) float16."""
        file = self._file = self._file or open_hdf5(self.path)
        number = self.places[place]
        points = slice(self._ptr[number], self._ptr[number + 1])
        return file["row"][points], file["probability"][points]

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self):
        return {**self.__dict__, "_file": None}  # an open file cannot be sent to a worker process


class SelfTrainingClouds(CloudDataset):
    """Events with true labels, and further ones that all teachers have labelled; the probabilities are averaged.

    `semantic` of a batch is (P, C) float32: for each point the probability of each class. The events with true labels
    are repeated, see Mixture. InputError if the teachers have other classes or other points than the labelled events,
    or no further event."""

    def __init__(self, labelled: CloudDataset, teachers: Sequence[Teacher], classes: tuple[str, ...], fraction: float):
        for teacher in teachers:
            ours = {"classes": classes} | {name: getattr(labelled.selection, name) for name in teacher.cuts}
            for name, value in ({"classes": teacher.classes} | teacher.cuts).items():
                if value != ours[name]:
                    raise InputError(f"{teacher.path}: has {name} {value}, but this run has {ours[name]}")
        own = [path.resolve() for path in labelled.files]
        further = [path for path in teachers[0].files if path not in own]
        super().__init__([*own, *further], replace(labelled.selection, rows=True))
        self.teachers, self.num_classes = teachers, len(classes)
        known = set.intersection(*(set(teacher.places) for teacher in teachers))
        self._true = {(path.resolve(), row) for path, row in _places(labelled)}
        places = list(_places(self))
        true = [number for number, place in enumerate(places) if place in self._true]
        other = [number for number, place in enumerate(places) if place in known - self._true]
        if not other:
            names = ", ".join(str(teacher.path) for teacher in teachers)
            raise InputError(f"{names}: no event to train on, apart from the {plural(len(true), 'labelled one')}")
        self.mixture = Mixture.of(len(true), len(other), fraction)
        self.restrict(torch.tensor(self.mixture.repeats * true + other))

    def __getitems__(self, numbers: list[int]) -> CloudBatch:
        """Read a batch, see CloudDataset; InputError if a teacher has other points of an event."""
        batch = super().__getitems__(numbers)
        assert batch.semantic is not None and batch.row is not None and batch.index is not None
        probabilities = F.one_hot(batch.semantic, self.num_classes).float()
        lengths = batch.lengths.tolist()
        of_events = probabilities.split(lengths), batch.row.split(lengths)
        for file, row, of_event, rows in zip(*self.places(batch.index), *of_events, strict=True):
            place = self.files[file], int(row)
            if place not in self._true:
                of_event.copy_(self._predicted(place, rows))
        return replace(batch, semantic=probabilities)

    def _predicted(self, place: Place, rows: Tensor) -> Tensor:
        """Return the mean probabilities (P, C) that the teachers have for an event, whose points are `rows`."""
        total = np.zeros((len(rows), self.num_classes), np.float32)
        for teacher in self.teachers:
            theirs, probabilities = teacher.read(place)
            if not np.array_equal(theirs, rows.numpy()):
                raise InputError(f"{teacher.path}: has other points of event {place[1]} of {place[0]} than this run")
            total += probabilities
        return torch.from_numpy(total / len(self.teachers))

    def close(self) -> None:
        """Close all files."""
        super().close()
        for teacher in self.teachers:
            teacher.close()


def _places(dataset: CloudDataset) -> list[Place]:
    """Return the file and the row there of each event of a data set."""
    files, rows = dataset.places(torch.arange(len(dataset)))
    return [(dataset.files[file], int(row)) for file, row in zip(files, rows, strict=True)]


class SelfTrainingJets(JetDataset):
    """Jets with true labels, and further ones with class probabilities.

    `target` of a batch is (B, K) float32. path: file of the further jets; rows (N,) int64: which of them; probabilities
    (N, K). The jets with true labels are repeated, see Mixture. InputError for rows that the file does not have."""

    def __init__(self, labelled: JetDataset, path: Path, rows: Tensor, probabilities: Tensor, fraction: float):
        super().__init__([*labelled.files, path], replace(labelled.selection, target=None))
        further = int(labelled.first[-1]) + rows
        if not len(rows) or int(further.max()) >= len(self):
            raise InputError(f"{path}: has {len(self) - int(labelled.first[-1])} jets, fewer than were predicted")
        labels = labelled.labels()
        assert labels is not None
        self.targets = torch.zeros(len(self), probabilities.shape[1])
        self.targets[labelled.events] = F.one_hot(labels, probabilities.shape[1]).float()
        self.targets[further] = probabilities.float()
        self.mixture = Mixture.of(len(labelled), len(rows), fraction)
        self.restrict(torch.cat([labelled.events.repeat(self.mixture.repeats), further]))
