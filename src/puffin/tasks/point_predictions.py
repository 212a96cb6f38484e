"""Write the predicted classes of points to a file, batch by batch, so that memory does not grow with the events, and
read the confusion matrices of its events.

<stem>.h5 has for each event, in the order of the split:
  file (B,) int32      position of its file in the attribute `files`
  event (B,) int64     its row in that file
  ptr (B + 1,) int64   where its points begin in the data sets below
for each point:
  row (P,) int32       number of the point within its event of the file, from which other points were removed
  truth, class (P,) uint8: true and predicted class
  probability (P, C) float16: of the classes named in the attribute `classes`
and the attributes `checkpoint`, the file with the weights, `run`, the identity of the run that wrote it, and
`energy_threshold` [MeV] and `remove_led`, which points were removed.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from puffin.data.hdf5_output import whole_hdf5
from puffin.data.pilarnet import CloudDataset
from puffin.errors import InputError, not_a_file
from puffin.metrics.segmentation import confusion_of

_CHUNK = 2**16  # rows
_EVENTS = {"file": np.int32, "event": np.int64, "ptr": np.int64}
_POINTS = {"row": np.int32, "truth": np.uint8, "class": np.uint8, "probability": np.float16}


class PointPredictions:
    """A context that appends batches to a file, which is complete when the context ends, or absent after an error."""

    def __init__(
        self,
        stem: Path,
        dataset: CloudDataset,
        names: tuple[str, ...],
        checkpoint: Path | None = None,
        run_id: str = "",
    ):
        self.target, self.dataset, self.names = self.path(stem), dataset, names
        self.checkpoint = "" if checkpoint is None else str(checkpoint.resolve())
        self.run_id = run_id
        self._open = ExitStack()

    @staticmethod
    def path(stem: Path) -> Path:
        """Return the path of the file of a stem."""
        return stem.with_name(f"{stem.name}.h5")

    def __enter__(self) -> "PointPredictions":
        with ExitStack() as stack:
            file = stack.enter_context(whole_hdf5(self.target))
            file.attrs["files"] = [str(path.resolve()) for path in self.dataset.files]
            file.attrs["classes"] = list(self.names)
            file.attrs["checkpoint"] = self.checkpoint
            file.attrs["run"] = self.run_id
            for name in ("energy_threshold", "remove_led"):
                file.attrs[name] = getattr(self.dataset.selection, name)
            shapes = {"probability": (len(self.names),)}
            # kept open, as a closed data set writes its last chunk and reads it again when it grows
            dtypes = (_EVENTS | _POINTS).items()
            self._data = {name: _create(file, name, dtype, shapes.get(name, ())) for name, dtype in dtypes}
            self._append("ptr", np.zeros(1, np.int64))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._open.__exit__(*error)

    def append(self, rows: dict[str, Tensor]) -> None:
        """Append a batch, whose tensors are on the CPU.

        rows: `index` and `lengths` (B,) of the events; `particle_row`, `particle_truth`, `particle_class` (P,) and
        `particle_probability` (P, C) of their points."""
        files, events = self.dataset.places(rows["index"])
        self._append("file", files)
        self._append("event", events)
        self._append("ptr", len(self._data["class"]) + rows["lengths"].cumsum(0).numpy())
        for name in _POINTS:
            self._append(name, rows[f"particle_{name}"].numpy())

    def _append(self, name: str, values: np.ndarray) -> None:
        data = self._data[name]
        before = len(data)
        data.resize(before + len(values), 0)
        data[before:] = values


def _create(file: h5py.File, name: str, dtype, shape: tuple[int, ...]) -> h5py.Dataset:
    """Create an empty data set that can grow; probabilities are not compressed, which is slow and saves little."""
    compression = {} if name == "probability" else {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    return file.create_dataset(
        name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(_CHUNK, *shape), **compression
    )


class EventConfusions(NamedTuple):
    """The confusion matrices (E, C, C) int64 of E events, and the name of the file and the row of each event."""

    places: list[tuple[str, int]]
    confusions: np.ndarray


def is_point_predictions(path: Path) -> bool:
    """Return whether a file is one of those that `PointPredictions` writes."""
    return path.is_file() and h5py.is_hdf5(path) and "ptr" in h5py.File(path)


def read_methods(files: Mapping[str, Sequence[Path]]) -> dict[str, np.ndarray]:
    """Read the confusion matrices (S, E, C, C) of the same E events for each method, from the files of its S seeds.

    InputError if the files hold no events, different events, or different points or classes of these."""
    first, stacks = None, {}
    for method, paths in files.items():
        stack = []
        for path in paths:
            places, confusions = read_confusions(path)
            points = confusions.sum(2)
            first = first or (path, places, points)
            if places != first[1] or not np.array_equal(points, first[2]):
                what = "test events" if places != first[1] else "points or true classes"
                raise InputError(
                    f"{path}: has other {what} than {first[0]}; compare runs with the same test events and cuts"
                )
            stack.append(confusions)
        stacks[method] = np.stack(stack)
    if first is not None and not first[1]:
        raise InputError(f"{first[0]}: has no events")
    return stacks


def read_confusions(path: Path) -> EventConfusions:
    """Count true (rows) and predicted classes (columns) of each event of a file of predictions, sorted by event.

    InputError if the file is missing or holds no predictions of points."""
    if not path.is_file():
        raise InputError(f"{not_a_file(path)}. Pass predictions of points, such as predict/NAME.best.test.h5.")
    try:
        with h5py.File(path) as file:
            names = [Path(name).name for name in file.attrs["files"]]
            places = [(names[k], int(row)) for k, row in zip(file["file"][()], file["event"][()], strict=True)]
            lengths, classes = np.diff(file["ptr"][()]).tolist(), len(file.attrs["classes"])
            true, predicted = (torch.from_numpy(file[name][()]).split(lengths) for name in ("truth", "class"))
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: expected predictions of points by train_segmentation.py ({error})") from error
    confusions = [confusion_of(t.long(), p.long(), classes) for t, p in zip(true, predicted, strict=True)]
    order = sorted(range(len(places)), key=places.__getitem__)
    counts = np.array([confusions[k].numpy() for k in order], np.int64).reshape(-1, classes, classes)
    return EventConfusions([places[k] for k in order], counts)
