"""Read one file of PILArNet-M events, in the published layout or in the packed one of data/repack_pilarnet.py.

Published: `point` and `cluster`, one row of variable length per event, flattened from (N, 8) and (M, 5 or 6). Only the
first four of the eight columns are read; the fourth is the voxel's value, which is its energy.
Packed: `points` (P, 4) float32 and `clusters` (M, 5 or 6) int32 of all events; `point_ptr`, `cluster_ptr` (events + 1,)
int64, where each event begins; `checksum` (events,) uint32, CRC-32 of an event's points and clusters; attributes
`packed`, `version`, and `source` and `source_bytes`, the name and the size of the published file.

Columns of points: x, y, z [voxel], energy [MeV]. Columns of clusters: number of points, fragment, group, interaction,
semantic class, and PID in v2 and v3.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from puffin.data.hdf5 import open_dataset, open_hdf5
from puffin.data.splits import hdf5_files
from puffin.detector import PILARNET
from puffin.errors import InputError, first_line
from puffin.files import whole_file

WIDTHS = {"v1": 5, "v2": 6, "v3": 6}  # columns of clusters
_POINT_WIDTH = 8
_ROWS_AT_ONCE = 1024
_CHECKED_ROWS = 8  # events, spread over a file, that are compared with its index


class BadEvent(InputError):
    """An event that cannot be used; --skip-bad drops it."""


class EventFile:
    """One HDF5 file of events, in either layout; create it in the process that reads, as it opens the file at once.

    Has its `path`, `version` ("v1", "v2" or "v3"), `packed` (which layout it has), and len(), the number of events.
    InputError for anything but a file of PILArNet-M events."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = open_hdf5(self.path)
        try:
            self.packed = bool(self._file.attrs.get("packed", False))
            names = (
                ("points", "clusters", "point_ptr", "cluster_ptr", "checksum") if self.packed else ("point", "cluster")
            )
            arrays = [
                open_dataset(self._file, self.path, name, "Expected a file of PILArNet-M events.") for name in names
            ]
            if self.packed:
                self._open_packed()
            else:
                self._data = arrays
                self._check_layout(names)
                self.version = self._infer_version()
            self.width = WIDTHS[self.version]
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._point_ptr) - 1 if self.packed else len(self._data[0])

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._data = None
        self._file.close()

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the points (N, 4) float32 and clusters (M, 5 or 6) of an event; BadEvent if they are not valid."""
        if self.packed:
            try:
                points, clusters = (
                    data[ptr[row] : ptr[row + 1]]
                    for data, ptr in zip(self._data, (self._point_ptr, self._cluster_ptr), strict=False)
                )
            except (OSError, RuntimeError) as error:
                raise self._bad(row, f"cannot be read ({first_line(error)}). The file may be damaged") from error
        else:
            points = self._row(self._data[0], row, _POINT_WIDTH, "point")[:, :4]
            clusters = self._clusters(row)
        problem = problem_of(points, clusters)
        if problem:
            raise self._bad(row, problem)
        return points, clusters

    def sizes(self, skip_bad: bool = False) -> Iterator[np.ndarray]:
        """Yield the numbers of points and clusters of each event, in blocks of n events, (n, 2) int64.

        Low-energy deposits are included. Reads only the clusters. With skip_bad a bad event has -1 points and 0
        clusters; otherwise it raises BadEvent."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(self))
            if self.packed:
                yield np.stack([np.diff(ptr[start : stop + 1]) for ptr in (self._point_ptr, self._cluster_ptr)], 1)
            else:
                yield np.array([self.size(row, skip_bad) for row in range(start, stop)], np.int64)

    def size(self, row: int, skip_bad: bool = False) -> tuple[int, int]:
        """Return the numbers of points and clusters of one event of the published layout; see `sizes`."""
        try:
            sizes = self._clusters(row)[:, 0]
            if (sizes < 0).any():
                raise self._bad(row, f"expected cluster sizes of 0 or more, got {sizes.min()}")
            return int(sizes.sum()), len(sizes)
        except BadEvent:
            if not skip_bad:
                raise
            return -1, 0

    def checksums(self) -> np.ndarray:
        """Return the stored CRC-32 of each event of a packed file, (events,) uint32."""
        return self._file["checksum"][()]

    def _row(self, data: h5py.Dataset, row: int, width: int, name: str) -> np.ndarray:
        """Read a row of the published layout, (n, width)."""
        try:
            flat = data[row]
        except (OSError, RuntimeError) as error:
            raise self._bad(row, f"'{name}' cannot be read ({first_line(error)}). The file may be damaged") from error
        if flat.size % width:
            raise self._bad(
                row, f"expected rows of {width} numbers in '{name}' ({self.version}), got {flat.size} numbers"
            )
        return flat.reshape(-1, width)

    def _clusters(self, row: int) -> np.ndarray:
        return self._row(self._data[1], row, self.width, "cluster")

    def _bad(self, row: int, problem: str) -> BadEvent:
        return BadEvent(f"{self.path}: event {row}: {problem}. Correct the file, or drop such events with --skip-bad.")

    def _open_packed(self) -> None:
        self.version = str(self._file.attrs.get("version", ""))
        self._point_ptr, self._cluster_ptr = self._file["point_ptr"][()], self._file["cluster_ptr"][()]
        points, clusters = self._file["points"], self._file["clusters"]
        if self.version not in WIDTHS or points.shape[1:] != (4,) or clusters.shape[1:] != (WIDTHS[self.version],):
            raise InputError(
                f"{self.path}: expected points (P, 4) and clusters of a version v1, v2 or v3, "
                f"got {points.shape}, {clusters.shape} and '{self.version}'. Repack the file again."
            )
        for ptr, rows in ((self._point_ptr, len(points)), (self._cluster_ptr, len(clusters))):
            if len(ptr) != len(self._point_ptr) or ptr[0] != 0 or (np.diff(ptr) < 0).any() or ptr[-1] > rows:
                raise InputError(
                    f"{self.path}: expected offsets that ascend from 0 to at most {rows}. Repack the file again."
                )
        self._data = [_mapped(points), _mapped(clusters)]

    def _check_layout(self, names: tuple[str, ...]) -> None:
        for name, data, kinds in zip(names, self._data, (np.floating, np.integer), strict=False):
            rows_of = h5py.check_vlen_dtype(data.dtype)
            if (
                data.ndim != 1
                or rows_of is None
                or not np.issubdtype(rows_of, kinds)
                or data.shape[:1] != self._data[0].shape[:1]
            ):
                number = len(self._data[0]) if self._data[0].ndim else "as many"
                raise InputError(
                    f"{self.path}: {name}: expected {number} rows of variable length of {kinds.__name__} "
                    f"numbers, got {data.shape} {rows_of or data.dtype}"
                )

    def _infer_version(self) -> str:
        """Infer the version from the first event whose clusters add up to its points for only one number of columns.

        v2 and v3 have the same columns; they differ in cluster_extra, or else in the file name."""
        named = re.findall(r"_(v[123])(?![0-9])", self.path.stem)
        for row in range(min(len(self), 100)):
            try:
                points, clusters = (data[row] for data in self._data)
            except (OSError, RuntimeError):
                continue
            fits = [
                w
                for w in (5, 6)
                if clusters.size
                and clusters.size % w == 0
                and clusters.reshape(-1, w)[:, 0].sum() * _POINT_WIDTH == points.size
            ]
            if fits == [5]:
                return "v1"
            if fits == [6]:
                further = self._file.get("cluster_extra")
                extra = further[row].size * 6 // clusters.size if isinstance(further, h5py.Dataset) else 0
                return {5: "v2", 6: "v3"}.get(extra, "v3" if named[-1:] == ["v3"] else "v2")
        if named:
            return named[-1]
        if not len(self):
            raise InputError(f"{self.path}: holds no events; the program that wrote it may not have finished")
        raise InputError(
            f"{self.path}: expected clusters of 5 (v1) or 6 (v2, v3) numbers that add up to the points, "
            f"found none in the first events"
        )


def problem_of(points: np.ndarray, clusters: np.ndarray) -> str | None:
    """Describe what is wrong with an event (points (N, 4), clusters (M, 5 or 6)), or return None."""
    sizes = clusters[:, 0]
    if (sizes < 0).any() or sizes.sum() != len(points):
        return f"expected cluster sizes that add up to its {len(points)} points, got {sizes.sum()}"
    semantic = clusters[:, 4]
    last_class = len(PILARNET.class_names) - 1
    if len(semantic) and (semantic.min() < 0 or semantic.max() > last_class):
        return f"expected semantic classes 0 to {last_class}, got {semantic.min()} to {semantic.max()}"
    if len(points) == 0:
        return None
    if not np.isfinite(points).all():
        return "expected finite coordinates and energies, got NaN or infinity"
    low, high = points[:, :3].min(), points[:, :3].max()
    if low < 0 or high > PILARNET.size - 1:
        return f"expected coordinates 0 to {PILARNET.size - 1}, got {low:g} to {high:g}"
    return None


def checksum(points: np.ndarray, clusters: np.ndarray) -> int:
    """Compute the CRC-32 of an event as a packed file stores it."""
    return zlib.crc32(np.ascontiguousarray(clusters, np.int32), zlib.crc32(np.ascontiguousarray(points, np.float32)))


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """Find the files among paths, and the HDF5 files in folders and their subfolders, sorted; InputError if none."""
    found = set()
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        found.update(hdf5_files(path, "**/*") if path.is_dir() else [path])
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: expected .h5 files, found none")
    return sorted(found)


def index_path(path: str | Path) -> Path:
    """Return the path of the index of a file: X_points.npy next to X.h5."""
    return Path(path).with_name(f"{Path(path).stem}_points.npy")


def make_index(path: str | Path, skip_bad: bool = False, save: bool = True) -> np.ndarray:
    """Count the points of each event, (events,) int64 (-1: bad), and write them next to the file if possible.

    save: whether to write them. BadEvent for an event with bad clusters, unless skip_bad."""
    with EventFile(path) as file:
        counts = np.concatenate([np.zeros((0, 2), np.int64), *file.sizes(skip_bad)])[:, 0]
    try:
        if save:
            with whole_file(index_path(path)) as temporary:
                np.save(temporary, counts)
    except OSError:
        pass  # a read-only data folder; the caller gets the counts anyway
    return counts


def known_counts(file: EventFile) -> np.ndarray | None:
    """Return the points of each event, (events,) int64 (-1: bad), without reading the whole file.

    A packed file stores them; otherwise they are in the index next to it. None if there is no index, or if it does not
    match the file (a few events are compared)."""
    if file.packed:
        return np.concatenate([np.zeros((0, 2), np.int64), *file.sizes()])[:, 0]
    try:
        counts = np.load(index_path(file.path), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if counts.shape != (len(file),) or not np.issubdtype(counts.dtype, np.integer):
        return None
    rows = np.unique(np.linspace(0, len(file) - 1, _CHECKED_ROWS).astype(int)) if len(file) else []
    pairs = ((counts[row], file.size(row, skip_bad=True)[0]) for row in rows)
    return counts if all(indexed == found or indexed < 0 or found < 0 for indexed, found in pairs) else None


def _mapped(data: h5py.Dataset):
    """Map a contiguous data set into memory, as slicing it is faster than with HDF5; return others unchanged."""
    offset = data.id.get_offset()
    if offset is None or data.size == 0:
        return data
    return np.memmap(data.file.filename, data.dtype, "r", offset, data.shape)
