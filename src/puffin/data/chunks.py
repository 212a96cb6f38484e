"""Read rows of chunked HDF5 arrays without decompressing a chunk more than once. Needs no PyTorch.

h5py chooses chunks that divide every axis: of (300000, 200, 4) numbers a chunk has 4688 jets, 7 particles and 1 column,
so a block of jets lies in 116 chunks of together 15 MB, more than HDF5 keeps in its cache. Two things help: a cache
that holds all chunks of a row, and one request per chunk, as HDF5 copies whole chunks faster than strided parts.
"""

import logging
from collections.abc import Iterator
from itertools import product
from math import prod

import h5py
import numpy as np

log = logging.getLogger("puffin")

_LARGEST_CACHE = 2**28  # bytes for one array
_LARGEST_BLOCK = 2**28  # bytes that are read at once
_SLOTS = (521, 5003, 50021, 500009)  # primes; HDF5 recommends 100 slots per chunk


def open_with_cache(file: h5py.File, key: str, array: h5py.Dataset) -> h5py.Dataset:
    """Open an array again, with a cache for all chunks of a row, if HDF5's is too small; otherwise return `array`.

    The caller must keep no other reference to the array: HDF5 would use the cache of that one."""
    size, number = _chunks_of_a_row(array)
    access = array.id.get_access_plist()
    slots, available, _ = access.get_chunk_cache()
    if size <= available or size > _LARGEST_CACHE:
        return array
    slots = max(slots, next((prime for prime in _SLOTS if prime >= 100 * number), _SLOTS[-1]))
    access.set_chunk_cache(slots, size, 1.0)  # 1: chunks that were read to their end are forgotten first
    array.id.close()
    return h5py.Dataset(h5py.h5d.open(file.id, key.encode(), access))


def rows_at_once(array: h5py.Dataset, wanted: int) -> int:
    """Return how many rows to read at once: about `wanted`, in whole chunks unless these are too large for memory."""
    stored = (array.chunks or (1,))[0]
    row = array.dtype.itemsize * prod(array.shape[1:])
    if stored * row > _LARGEST_BLOCK:
        return wanted
    return stored * max(1, wanted // stored)


def read_rows(array: h5py.Dataset, rows: slice, last: int | None = None) -> np.ndarray:
    """Read rows.start to rows.stop of an array, of each at most the first `last` entries: like array[rows, :last]."""
    if array.ndim < 2:
        return array[rows]
    shape = (min(rows.stop, array.shape[0]) - rows.start, *array.shape[1:])
    if last is not None:
        shape = (shape[0], min(last, shape[1]), *shape[2:])
    if array.chunks is None or all(chunk >= size for chunk, size in zip(array.chunks[1:], shape[1:], strict=True)):
        return array[rows, : shape[1]]
    out = np.empty(shape, array.dtype)
    begins = (rows.start, *(0 for _ in shape[1:]))
    for region in _regions(begins, shape, array.chunks):
        out[tuple(slice(a - start, b - start) for (a, b), start in zip(region, begins, strict=True))] = array[
            tuple(slice(a, b) for a, b in region)
        ]
    return out


def warn_of_slow_chunks(array: h5py.Dataset, name: str) -> None:
    """Warn of chunks that neither the cache nor a block can hold, and say how to store the array otherwise."""
    if array.chunks is None or array.chunks[0] == 1 or _chunks_of_a_row(array)[0] <= _LARGEST_CACHE:
        return
    rows = max(1, 2**19 // (array.dtype.itemsize * prod(array.shape[1:])))
    better = "x".join(map(str, (min(rows, len(array)), *array.shape[1:])))
    key = array.name.strip("/")
    log.warning(
        f"{name}: {key} is stored in chunks of {' x '.join(map(str, array.chunks))}, which are slow to read and "
        f"need much memory. Store it again: h5repack -l {key}:CHUNK={better} {name} NEW_FILE"
    )


def unwritten_fraction(array: h5py.Dataset) -> float:
    """Return the fraction of an array that was never written, and is read as zeros; 0 if HDF5 does not know it."""
    if array.size == 0 or array.external is not None:
        return 0.0
    if array.is_virtual:
        mapped = [source.vspace.get_select_npoints() for source in array.virtual_sources()]
        unlimited = any(number > array.size for number in mapped)
        return 0.0 if unlimited else max(0.0, 1 - sum(mapped) / array.size)
    if array.chunks is None:
        return float(array.id.get_storage_size() == 0)
    expected = prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
    return 1 - array.id.get_num_chunks() / expected


def _chunks_of_a_row(array: h5py.Dataset) -> tuple[int, int]:
    """Return the bytes and the number of all chunks that hold parts of one row; 0 without chunks."""
    if array.chunks is None:
        return 0, 0
    number = prod(-(-size // chunk) for size, chunk in zip(array.shape[1:], array.chunks[1:], strict=True))
    return number * prod(array.chunks) * array.dtype.itemsize, number


def _regions(begins, sizes, chunks) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the parts of a box that lie in one chunk each, (start, stop) along each axis, in the order of the file."""
    axes = []
    for begin, size, chunk in zip(begins, sizes, chunks, strict=True):
        edges = [begin, *range((begin // chunk + 1) * chunk, begin + size, chunk), begin + size]
        axes.append(list(zip(edges[:-1], edges[1:], strict=True)) if size > 0 else [])
    return product(*axes)
