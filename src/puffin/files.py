"""Write files so that they are either complete or absent, on local and on network file systems."""

import contextlib
import csv
import errno
import fcntl
import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from puffin.errors import DiskFull, InputError
from puffin.tables import read_table

log = logging.getLogger("puffin")

_unfinished: set[Path] = set()  # temporary files of this process
_FULL = (errno.ENOSPC, errno.EDQUOT)
# what a file system answers that does not offer a call (FAT, CIFS, FUSE, some NFS and Lustre mounts)
_NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOLCK)
_LONGEST_STEM = 100  # bytes of a file's name that its temporary file repeats
_LOCK_AGE = 30.0  # s, age at which the lock of a table is considered left over by a process that was killed
_said: set[str] = set()


@contextlib.contextmanager
def whole_file(path: str | Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which is renamed to `path` if the block ends without an error.

    size: bytes of the file, if they are known before. InputError if a folder has this name; DiskFull, which says which
    disk that is, if there is no space."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: expected the name of a file, found a folder; rename or remove it")
    temporary = _new_temporary(path)
    _unfinished.add(temporary)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            _if_offered(lambda: os.fsync(file.fileno()), path.parent, _NOT_SYNCED)
        _if_offered(lambda: os.chmod(temporary, 0o666 & ~_umask()), path.parent, "files keep the system's permissions")
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:
        full = full_disk(error, path, size)
        if full is not None:
            raise full from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def _new_temporary(path: Path) -> Path:
    """Create an empty file beside `path`, with the same ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = os.fsdecode(os.fsencode(path.name)[:_LONGEST_STEM])
    try:
        handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=path.suffix[:20], dir=path.parent)
    except OSError as error:
        full = full_disk(error, path)
        if full is not None:
            raise full from error
        raise
    os.close(handle)
    return Path(name)


def full_disk(error: BaseException, path: Path, size: int | None = None) -> DiskFull | None:
    """Return the error that says which disk is full, if that is why `path` could not be written; else None.

    size: bytes that `path` needs, if known."""
    number = getattr(error, "errno", None)
    by_hdf5 = next((n for n in _FULL if f"errno = {n}," in str(error)), None)  # which puts it into the text only
    if number not in _FULL and by_hdf5 is None:
        return None
    kind = "its quota is used up" if errno.EDQUOT in (number, by_hdf5) else "it is full"
    free = size_in_words(shutil.disk_usage(path.parent).free)
    needed = f", {size_in_words(size)} are needed" if size else ""
    return DiskFull(
        f"{path}: cannot write to the disk of {path.parent.resolve()}, {kind} ({free} are free{needed}); free some "
        "space, or choose another folder"
    )


def size_in_words(size: float) -> str:
    """Return a number of bytes as text, for example "1.2 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def remove_unfinished() -> None:
    """Remove the temporary files of open `whole_file` blocks; for a process that exits without leaving these blocks."""
    for temporary in tuple(_unfinished):
        temporary.unlink(missing_ok=True)


def append_row(path: str | Path, row: dict) -> None:
    """Append a row to a CSV file, with a header if the file is new; safe if several processes append at once.

    A table that a spreadsheet program has saved in its own way is written anew as plain CSV.
    Columns of the row that the file lacks are added to it and are empty in the earlier rows. Columns that the row lacks
    are empty in the new row."""
    path = Path(os.path.realpath(path))  # a link to a table elsewhere stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        content = path.read_bytes() if path.exists() else b""
        rows = read_table(path) if content else []
        names = rows[0] if rows else []
        added = [name for name in row if name not in names]
        names = names + added
        values = [row.get(name, "") for name in names]
        if added or not content.startswith(_csv_line(names)):  # a spreadsheet program saved it otherwise
            earlier = [r + [""] * (len(names) - len(r)) for r in rows[1:]]
            content = b"".join(map(_csv_line, [names, *earlier]))
        elif not content.endswith(b"\n"):  # written by hand, or cut off by a full disk
            content += b"\n"
        with whole_file(path) as temporary:
            temporary.write_bytes(content + _csv_line(values))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes that use this path, of all machines, even where the file system offers no locks.

    Without locks a second file stands for the lock; one that a killed process left is removed after 30 s."""
    with open(path, "ab") as file:
        if _if_offered(lambda: fcntl.flock(file, fcntl.LOCK_EX), path.parent, ""):
            yield
            return
    held = path.with_name(f"{path.name}ed")
    while True:
        try:
            os.close(os.open(held, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - held.stat().st_mtime > _LOCK_AGE:
                    held.unlink()
            time.sleep(0.05)
    try:
        yield
    finally:
        held.unlink(missing_ok=True)


def _csv_line(values) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode("utf-8", "surrogateescape")  # names of files may not be text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_NOT_SYNCED = "a power failure can lose the files that were written last"


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that may be written to, but not read
        handle = os.open(folder, os.O_RDONLY)
        try:
            _if_offered(lambda: os.fsync(handle), folder, _NOT_SYNCED)
        finally:
            os.close(handle)


def _if_offered(call: Callable[[], object], folder: Path, consequence: str) -> bool:
    """Call a function of the file system; return False if the file system does not offer it.

    consequence: what that means for the user, which is logged once; '' for nothing. Other errors are raised."""
    try:
        call()
        return True
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        if consequence and consequence not in _said:
            _said.add(consequence)
            log.warning(f"{folder}: this file system does not offer all that Puffin asks for ({error}): {consequence}")
        return False
