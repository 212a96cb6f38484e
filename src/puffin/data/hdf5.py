"""Open HDF5 files for reading. Needs no PyTorch."""

from pathlib import Path

import h5py

from puffin.errors import InputError, first_line


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading; InputError if it does not exist or is not an HDF5 file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({first_line(error)})") from error
