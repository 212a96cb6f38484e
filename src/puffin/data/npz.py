"""Read an array of an .npz file block by block, so that the whole array is never in memory.

Works for compressed and uncompressed files. Pickled data are never loaded."""

import zipfile
from math import prod
from pathlib import Path

import numpy as np

from puffin.errors import InputError, first_line

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays; InputError if the file is not an .npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable .npz file ({first_line(error)})") from error


class NpzArray:
    """Array `key` of an .npz file, read from the first row to the last: `read(n)` returns the next n rows.

    Has the `shape` and `dtype` of the array. InputError if the key is missing, if the array holds Python objects or is
    in Fortran order, and if the file is damaged."""

    def __init__(self, path: Path, key: str):
        self._name = f"{path}: {key}"
        if key not in npz_keys(path):
            raise InputError(f"{path}: array '{key}' not found (has: {', '.join(npz_keys(path)) or 'none'})")
        self._archive = zipfile.ZipFile(path)
        self._file = self._archive.open(f"{key}.npy")
        try:
            read_header = _HEADERS[np.lib.format.read_magic(self._file)]
            self.shape, fortran, self.dtype = read_header(self._file)
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
            self.close()
            raise InputError(f"{self._name}: not a readable .npy array ({first_line(error)})") from error
        if self.dtype.hasobject or (fortran and len(self.shape) > 1) or not self.shape:
            self.close()
            raise InputError(
                f"{self._name}: expected an array of numbers in C order. "
                f"Save it again as np.ascontiguousarray(array, float)."
            )

    def read(self, rows: int) -> np.ndarray:
        """Return the next `rows` rows, (rows, ...); InputError if the file is damaged or has fewer rows."""
        size = rows * prod(self.shape[1:]) * self.dtype.itemsize
        try:
            data = self._file.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
            raise InputError(f"{self._name}: damaged ({first_line(error)}). Download the file again.") from error
        if len(data) != size:
            raise InputError(f"{self._name}: ends too early. Download the file again.")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._archive.close()

    def __enter__(self) -> "NpzArray":
        return self

    def __exit__(self, *_) -> None:
        self.close()
