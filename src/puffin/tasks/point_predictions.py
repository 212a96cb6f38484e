"""Write the predicted classes of points to a file, batch by batch, so that memory does not grow with the events.

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

from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from puffin.data.hdf5_output import whole_hdf5
from puffin.data.pilarnet import CloudDataset

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
