"""Write files of jets. Needs no PyTorch.

A file of N jets has `Pmu` (N, M, 4) float32: E, px, py, pz [GeV], by descending pT, zero-padded at the end; `Nobj` (N,)
int32: the number of particles; and any other arrays with one row per jet: labels (N,), one-hot labels (N, K), features
of particles (N, M).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from puffin.data.hdf5_output import whole_hdf5
from puffin.data.momenta import Source, check_jets, find_particles
from puffin.data.targets import first_not_one_hot
from puffin.errors import InputError

BLOCK = 2048  # jets that a converter holds in memory at once
CHUNK = 128  # jets in a chunk of a file


class JetWriter:
    """Append jets to an open HDF5 file; `jets` counts those that were written, `empty` those without particles.

    level: compression level of gzip."""

    def __init__(self, file: h5py.File, level: int):
        self._file, self._level = file, level
        self.jets = self.empty = 0

    def append(self, rows: dict[str, np.ndarray]) -> None:
        """Append n jets, {key: (n, ...)} with `Nobj`; the first call fixes keys, widths and dtypes.

        Jets without particles are dropped."""
        filled = rows["Nobj"] > 0
        self.empty += int((~filled).sum())
        after = self.jets + int(filled.sum())
        for key, values in rows.items():
            if key not in self._file:
                self._file.create_dataset(
                    key,
                    (0, *values.shape[1:]),
                    values.dtype,
                    maxshape=(None, *values.shape[1:]),
                    chunks=(CHUNK, *values.shape[1:]),
                    compression="gzip",
                    compression_opts=self._level,
                    shuffle=True,
                    track_times=False,
                )
            self._file[key].resize(after, axis=0)
            self._file[key][self.jets :] = values[filled]
        self.jets = after


@contextmanager
def jet_file(path: Path, attributes: dict, level: int = 4) -> Iterator[JetWriter]:
    """Yield a JetWriter for `path`, which is created or replaced when the block ends without an error.

    attributes: of the file; level: compression level of gzip. InputError if no jet was written."""
    with whole_hdf5(path) as file:
        file.attrs.update(attributes)
        writer = JetWriter(file, level)
        yield writer
        check_filled(path, writer)


def check_filled(path: Path, writer: JetWriter) -> None:
    """Raise InputError if no jet was written.

    A converter of several files calls it before the first of them is complete, so that it writes all files or none."""
    if writer.jets == 0:
        raise InputError(f"{path}: not written, as it would contain no jets ({writer.empty} without particles)")


def jet_rows(
    momenta: np.ndarray, nobj: int, source: str, first: int = 0, **features: np.ndarray
) -> dict[str, np.ndarray]:
    """Make rows for JetWriter.append: `Nobj`, `Pmu` (n, nobj, 4) and the features (n, nobj).

    momenta (n, M, 4): E, px, py, pz [GeV]; entries with E = 0 are padding, at any position. features (n, M) keep their
    dtype. At most nobj particles are kept, by descending pT; particles of equal pT keep their order. InputError if a
    momentum is not that of a particle (momenta.py), or if a feature of a particle is not finite; it names the file
    `source` and the jet, counted from `first`."""
    origin = Source(source, first, remedy="Write the columns E, px, py, pz instead of {}.".format)
    found = find_particles(momenta, origin)
    real = found.valid
    if first == 0:
        check_jets(found, origin)
    for key, values in features.items():
        bad = (real & ~np.isfinite(values)).any(1)
        if bad.any():
            jet = first + int(bad.argmax())
            raise InputError(f"{source}: jet {jet}: {key} is not finite. Correct or remove the jet.")
    pt = np.where(real, np.hypot(momenta[..., 1], momenta[..., 2], dtype=np.float64), -1)
    order = np.argsort(-pt, axis=1, kind="stable")[:, :nobj]
    real = np.take_along_axis(real, order, 1)

    def arrange(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        out = np.zeros((len(values), nobj, *values.shape[2:]), dtype)
        extra = (1,) * (values.ndim - 2)
        sorted_values = np.take_along_axis(values, order.reshape(*order.shape, *extra), 1)
        out[:, : order.shape[1]] = np.where(real.reshape(*real.shape, *extra), sorted_values, 0)
        return out

    rows = {"Nobj": real.sum(1, dtype=np.int32), "Pmu": arrange(momenta, np.float32)}
    return rows | {key: arrange(values, values.dtype) for key, values in features.items()}


def one_hot_numbers(flags: np.ndarray, names: Sequence[str], source: str, first: int = 0) -> np.ndarray:
    """Convert one-hot rows (n, K) to class numbers (n,) int32; InputError unless each row has a single 1.

    names: of the classes; source, first: file and number of the first jet, for the message."""
    jet = first_not_one_hot(flags)
    if jet is not None:
        raise InputError(
            f"{source}: jet {first + jet}: expected exactly one of {', '.join(names)} to be 1 and the others 0"
        )
    return flags.argmax(1).astype(np.int32)


def report(path: Path, writer: JetWriter) -> None:
    """Print what was written."""
    empty = f" ({writer.empty} without particles dropped)" if writer.empty else ""
    print(f"{path}: {writer.jets} jets{empty}, {path.stat().st_size / 1e6:.2f} MB")
