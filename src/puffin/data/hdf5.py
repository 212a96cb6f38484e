"""Open HDF5 files and their arrays for reading. Needs no PyTorch."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from puffin.data.chunks import open_with_cache, read_rows, unwritten_fraction
from puffin.errors import InputError, first_line, not_a_file

log = logging.getLogger("puffin")

_LISTED = 20  # keys that a message names


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading; InputError if it does not exist or is not an HDF5 file."""
    if not path.is_file():
        raise InputError(not_a_file(path))
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({first_line(error)})") from error


def open_array(file: h5py.File, path: Path, key: str, remedy: str = "") -> h5py.Dataset:
    """Return the array of numbers under a key of an open file.

    remedy: what to do if the key is wrong ("Choose another key with --target."). InputError as for `open_dataset`, and
    if the key holds text, a table or anything else but numbers."""
    found = open_dataset(file, path, key, remedy)
    problem = _kind_problem(found)
    if problem:
        raise InputError(f"{path}: {key}: {problem}{_hint(remedy)}")
    return found


def open_dataset(file: h5py.File, path: Path, key: str, remedy: str = "") -> h5py.Dataset:
    """Return the array under a key of an open file, whatever its elements are.

    InputError if there is no such key, or if it is a link to nothing or a group; also if the array is virtual and a
    file that it takes its numbers from is missing, as HDF5 would fill the gap with zeros."""
    found = _find(file, path, key, remedy)
    if isinstance(found, h5py.Group):
        raise InputError(f"{path}: '{key}' is a group (holds: {keys_of(found)}), expected an array.{_hint(remedy)}")
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise InputError(f"{path}: '{key}' holds no values, expected an array.{_hint(remedy)}")
    if found.is_virtual:
        for source, why in _missing_sources(found, path):
            raise InputError(
                f"{path}: {key} is virtual, and takes numbers from {source}, which {why}. They would be read as zeros: "
                f"put the file there, or write the virtual array again."
            )
    return found


class ArrayFile:
    """An open file whose arrays stay open, too, as HDF5 forgets the chunks of an array that is closed.

    Has its `path`. InputError if it does not exist or is not an HDF5 file."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = open_hdf5(self.path)
        self._arrays: dict[str, h5py.Dataset] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        try:
            return (
                self._file.get(key, getlink=True) is not None
            )  # a link to nothing, too, is reported when it is opened
        except (KeyError, RuntimeError, ValueError):
            return False

    def close(self) -> None:
        """Close the file."""
        self._arrays.clear()
        self._file.close()

    def array(self, key: str, remedy: str = "") -> h5py.Dataset:
        """Return the array under a key; InputError if there is none."""
        if key not in self._arrays:
            self._arrays[key] = open_with_cache(self._file, key, open_array(self._file, self.path, key, remedy))
        return self._arrays[key]

    def values(self, key: str, rows: slice | None = None, last: int | None = None, remedy: str = "") -> np.ndarray:
        """Read an array or some of its rows, of each at most the first `last` entries; InputError if it is damaged."""
        array = self.array(key, remedy)
        try:
            if rows is None:
                _warn_if_unwritten(array, f"{self.path}: {key}")
                return array[()]
            return read_rows(array, rows, last)
        except (OSError, RuntimeError) as error:
            reason = _missing_filter(array) or f"{first_line(error)}. The file may be damaged"
            raise InputError(f"{self.path}: cannot read {key} ({reason}).") from error


def keys_of(group: h5py.Group) -> str:
    """List the keys of a file or group for a message; 'none' if there are none."""
    try:
        keys = sorted(group)
    except (OSError, RuntimeError):
        return "a damaged list of keys"
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more or "none"


def _hint(remedy: str) -> str:
    return f" {remedy}" if remedy else ""


def _find(file: h5py.File, path: Path, key: str, remedy: str):
    """Return what a key holds; InputError if nothing does, or if it cannot be opened."""
    try:
        return file[key]
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        parent = _parent_with_link(file, key)
        if parent is None:
            has = f"{path}: key '{key}' not found (has: {keys_of(file)})"
            raise InputError(f"{has}.{_hint(remedy)}" if remedy else has) from error
        name, link = parent
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{path}: '{name}' is a link to '{link.path}' in {link.filename}, which cannot be opened. Put that "
                f"file there, or copy the array into this file."
            ) from error
        if isinstance(link, h5py.SoftLink):
            raise InputError(
                f"{path}: '{name}' is a link to '{link.path}', which does not exist. Correct the link, or write the "
                f"file again."
            ) from error
        raise InputError(f"{path}: cannot open {key} ({first_line(error)}). The file may be damaged.") from error


def _parent_with_link(file: h5py.File, key: str):
    """Return the first part of a key (a/b/c) that cannot be opened, and its link; None if there is no such part."""
    parts = [part for part in key.split("/") if part]
    group: h5py.Group = file
    for number, part in enumerate(parts, 1):
        name = "/".join(parts[:number])
        try:
            link = group.get(part, getlink=True)
        except (KeyError, RuntimeError, ValueError):
            return None
        if link is None:
            return None
        try:
            group = group[part]
        except (KeyError, OSError, RuntimeError, ValueError):
            return name, link
        if not isinstance(group, h5py.Group):
            return None
    return None


def _kind_problem(array: h5py.Dataset) -> str:
    """Describe what an array holds that is not numbers, or return ''."""
    kind = array.dtype.kind
    if kind in "biuf" and not array.dtype.subdtype:
        return ""
    if kind in "SU" or h5py.check_string_dtype(array.dtype) is not None:
        return "holds text, expected numbers. Number the values: numpy.unique(values, return_inverse=True)[1]."
    if array.dtype.fields:
        return f"is a table with the columns {', '.join(list(array.dtype.fields)[:_LISTED])}, expected an array."
    if h5py.check_vlen_dtype(array.dtype) is not None:
        return "holds rows of different lengths, expected an array. Pad the rows with zeros to one length."
    return f"holds {array.dtype}, expected numbers."


def _warn_if_unwritten(array: h5py.Dataset, name: str) -> None:
    """Warn if a part of an array was never written: labels that are read as zeros would count as class 0."""
    fraction = unwritten_fraction(array)
    if fraction:
        log.warning(
            f"{name}: {100 * fraction:.3g}% of it was never written and is read as zeros. Write the file again."
        )


def _missing_filter(array: h5py.Dataset) -> str:
    """Describe the compression of an array if this HDF5 does not have it, or return ''."""
    stored = array.id.get_create_plist()
    for number in range(stored.get_nfilters()):
        code, _, _, name = stored.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            text = name.decode(errors="replace").strip() or str(code)
            return (
                f"it is compressed with '{text}', which is not installed; compress it anew: h5repack -f GZIP=4 OLD NEW"
            )
    return ""


def _missing_sources(array: h5py.Dataset, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the sources of a virtual array that cannot be read, and why."""
    prefixes = [os.environ.get("HDF5_VDS_PREFIX", ""), array.id.get_access_plist().get_virtual_prefix().decode()]
    folders = [path.parent, Path()]
    folders += [Path(prefix.replace("${ORIGIN}", str(path.parent))) for prefix in prefixes if prefix]
    checked = set()
    for source in array.virtual_sources():
        name, key = source.file_name, source.dset_name
        if (name, key) in checked or name == "." or "%b" in name:  # %b: a pattern for as many files as there are
            continue
        checked.add((name, key))
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is None:
            yield name, "does not exist"
            continue
        try:
            with h5py.File(found, "r") as file:
                known = key in file
        except OSError:
            known = False
        if not known:
            yield f"'{key}' of {name}", "cannot be read"
