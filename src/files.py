"""Files that appear whole or not at all."""

import contextlib
import csv
import fcntl
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


_unfinished: set[Path] = set()  # temporary files of this process


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name `path` only if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Remove the temporary files of every `whole_file` that is open: for a process that ends without leaving its blocks."""
    for temporary in tuple(_unfinished):
        temporary.unlink(missing_ok=True)


def append_row(path: str | Path, row: dict) -> Path | None:
    """Append a row to a CSV file, with a header if it is new; safe when several processes append at once.

    A file with other columns is kept under another name, which is returned."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    moved = None
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        header = _csv_line(row)
        exists = path.exists() and path.stat().st_size > 0
        if exists and path.open().readline() != header:
            moved = path.with_name(f"{path.stem}.{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
            os.replace(path, moved)
            exists = False
        with open(path, "a", newline="") as file:
            file.write(("" if exists else header) + _csv_line(row.values()))
            file.flush()
            os.fsync(file.fileno())
    return moved


def _csv_line(values) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
