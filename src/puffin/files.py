"""Write files so that they are either complete or absent."""

import contextlib
import csv
import fcntl
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from puffin.tables import read_table

_unfinished: set[Path] = set()  # temporary files of this process


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which is renamed to `path` if the block ends without an error."""
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
    """Remove the temporary files of open `whole_file` blocks; for a process that exits without leaving these blocks."""
    for temporary in tuple(_unfinished):
        temporary.unlink(missing_ok=True)


def append_row(path: str | Path, row: dict) -> None:
    """Append a row to a CSV file, with a header if the file is new; safe if several processes append at once.

    A table that a spreadsheet program has saved in its own way is written anew as plain CSV.
    Columns of the row that the file lacks are added to it and are empty in the earlier rows. Columns that the row lacks
    are empty in the new row."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = read_table(path) if path.exists() else []
        names = rows[0] if rows else []
        added = [name for name in row if name not in names]
        names = names + added
        values = [row.get(name, "") for name in names]
        if added or not path.read_bytes().startswith(_csv_line(names)):  # a spreadsheet program saved it otherwise
            with whole_file(path) as temporary:
                earlier = (r + [""] * (len(names) - len(r)) for r in rows[1:])
                temporary.write_bytes(b"".join(map(_csv_line, [names, *earlier, values])))
        else:
            with open(path, "rb+") as file:
                file.seek(-1, os.SEEK_END)
                incomplete = file.read(1) != b"\n"  # a full disk can cut off the last line
                file.write((b"\n" if incomplete else b"") + _csv_line(values))
                file.flush()
                os.fsync(file.fileno())


def _csv_line(values) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode("utf-8", "surrogateescape")  # names of files may not be text


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
