"""Files that appear whole or not at all."""

import contextlib
import csv
import fcntl
import io
import os
import tempfile
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


def append_row(path: str | Path, row: dict) -> None:
    """Append a row to a CSV file, with a header if it is new; safe when several processes append at once.

    Columns that the file does not have are added to it, empty in the earlier rows; those that the row lacks are empty in it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = []
        if path.exists():
            with open(path, newline="") as file:
                rows = list(csv.reader(file))
        names = rows[0] if rows else []
        added = [name for name in row if name not in names]
        names = names + added
        values = [row.get(name, "") for name in names]
        if added:
            with whole_file(path) as temporary:
                earlier = (r + [""] * (len(names) - len(r)) for r in rows[1:])
                temporary.write_text("".join(map(_csv_line, [names, *earlier, values])))
        else:
            with open(path, "rb+") as file:
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"  # by a full disk
                file.write((b"\n" if torn else b"") + _csv_line(values).encode())
                file.flush()
                os.fsync(file.fileno())


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
