"""Try the places in which a run will write, before it starts: names, folders, permissions and space."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from puffin.errors import InputError
from puffin.files import full_disk, size_in_words

# the longest endings that are added to the names of predictions: matplotlib and HDF5 files, tables of curves
_ENDINGS = ("_confusion.csv", "_ROC_100.csv")


def check_places(files: Iterable[Path], size: int = 0) -> None:
    """Raise InputError unless all files could be written. size: bytes of the largest of them, if known.

    Folders are created. No existing file is changed."""
    files = list(files)
    for path in files:
        _check_name(path)
        if path.is_dir():
            raise InputError(f"{path}: expected the name of a file, found a folder; rename or remove it")
    for folder in dict.fromkeys(path.parent for path in files):
        _try_folder(folder)
    for path in files:
        if path.exists() and not os.access(path, os.R_OK):
            raise InputError(f"{path}: exists and cannot be read; correct its permissions, or choose another --prefix")
    for folder in dict.fromkeys(path.parent for path in files if path.suffix == ".pt"):
        free = shutil.disk_usage(folder).free
        if free < size:
            raise InputError(
                f"{folder}: a checkpoint needs {size_in_words(size)}, and the disk of {folder.resolve()} has "
                f"{size_in_words(free)} free; free some space, or choose another folder"
            )


def with_endings(stem: Path) -> list[Path]:
    """Return names of prediction files of a stem, the longest ones among them."""
    return [stem.with_name(stem.name + ending) for ending in _ENDINGS]


def _check_name(path: Path) -> None:
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        longest = 255
    length = len(os.fsencode(path.name))
    if length > longest:
        raise InputError(
            f"--prefix: {path.name[:40]}... has {length} bytes, and the file system allows {longest}; choose a prefix "
            f"that is {length - longest} bytes shorter"
        )


def _try_folder(folder: Path) -> None:
    """Write, rename and remove a small file."""
    flag = "choose another folder with --workdir, --logdir, --modeldir or --predictdir"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".try.", dir=folder)
        trial = Path(name)
        try:
            with open(handle, "wb") as file:
                file.write(b"x" * 4096)
                file.flush()
            os.replace(trial, trial.with_suffix(".renamed"))
        finally:
            trial.unlink(missing_ok=True)
            trial.with_suffix(".renamed").unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder}: expected a folder, found a file; {flag}") from error
    except OSError as error:
        full = full_disk(error, folder / "outputs")
        raise full or InputError(f"{folder}: cannot write here ({error.strerror}); {flag}") from error
