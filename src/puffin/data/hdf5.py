"""HDF5 files, opened for reading. Needs no PyTorch."""

from pathlib import Path

import h5py

from puffin.errors import InputError, first_line


def open_hdf5(path: Path) -> h5py.File:
    """The file, opened for reading; InputError if it is not there or not HDF5."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({first_line(error)})") from error
