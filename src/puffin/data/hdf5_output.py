"""Write HDF5 files that are complete or absent, also on a full disk and where HDF5's own locks do not work."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import h5py

from puffin.files import whole_file


@contextlib.contextmanager
def whole_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, which appears under `path` if the block ends without an error.

    HDF5 crashes the process at its end if it could not write when it closed a file, on a full disk for example. So it
    writes through a Python file that accepts everything after a failure, which is raised once HDF5 has closed."""
    with whole_file(path) as temporary, open(temporary, "rb+", buffering=0) as disk:
        forgiving = _Forgiving(disk)
        try:
            with h5py.File(forgiving, "w") as file:  # HDF5 locks no file that it does not open itself
                yield file
        finally:
            if forgiving.failure is not None:
                raise forgiving.failure


class _Forgiving(io.RawIOBase):
    """A file that remembers its first failure to write, and drops what comes after it."""

    def __init__(self, disk: io.FileIO):
        self.disk = disk
        self.failure: OSError | None = None

    def readable(self) -> bool:
        """Whether one can read."""
        return True

    def writable(self) -> bool:
        """Whether one can write."""
        return True

    def seekable(self) -> bool:
        """Whether one can seek."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move in the file."""
        return self.disk.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self.disk.tell()

    def readinto(self, buffer) -> int:
        """Read bytes; after a failure, zeros stand for those that were dropped."""
        count = self.disk.readinto(buffer) or 0
        if self.failure is not None and count < len(buffer):
            memoryview(buffer)[count:] = bytes(len(buffer) - count)
            return len(buffer)
        return count

    def write(self, data) -> int:
        """Write all bytes, or drop them after a failure."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view) and self.failure is None:
                written += self.disk.write(view[written:])
        except OSError as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the size of the file."""
        try:
            if self.failure is None:
                self.disk.truncate(size)
        except OSError as error:
            self.failure = error
        return size or 0
