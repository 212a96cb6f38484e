"""Find which files are for training, validation and test: by the names of files (jets) or of folders (LArTPC)."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from puffin.errors import InputError

log = logging.getLogger("puffin")

Files = dict[str, list[Path]]

# how people call the splits; the first is the name that we use
NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing", "holdout"),
}
SUFFIXES = (".h5", ".hdf5")
# formats of data that we do not read: a file of a split in one of them may have been forgotten
_OTHER_SUFFIXES = (".hdf", ".he5", ".hd5", ".npz", ".npy", ".root", ".parquet", ".csv", ".pkl", ".gz", ".zip", ".tar")
_LISTED = 5  # files that a message names


def splits_of(name: str) -> list[str]:
    """Return the splits whose names are words of `name`: ["train"] for top-train_1, [] for constrained, any case."""
    words = re.split(r"[^a-z]+", name.lower())
    return [split for split, known in NAMES.items() if set(known) & set(words)]


def files_by_name(folder: str | Path) -> Files:
    """Find the HDF5 files of each split in a folder by their names (train_1.h5, top-val.hdf5, ...), sorted.

    A file of no split, or in the folder of a split, is a warning. InputError if the folder does not exist, or if a file
    has the names of two splits. Hidden files are ignored: the temporary files of a killed writer begin with a dot."""
    folder = _existing(folder, "train, valid and test files")
    found: Files = {split: [] for split in NAMES}
    unused, foreign = [], []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        splits = splits_of(path.stem)
        if path.suffix.lower() not in SUFFIXES:
            if path.suffix.lower() in _OTHER_SUFFIXES and splits:
                foreign.append(path)
        elif len(splits) > 1:
            raise InputError(
                f"{path}: the name contains {' and '.join(_words_of(path.stem))}, so it is not clear which split the "
                f"file belongs to. Rename it, or move it to another folder."
            )
        elif splits:
            found[splits[0]].append(path)
        else:
            unused.append(path)
    unused += sorted(path for path in hdf5_files(folder, "*/*") if splits_of(path.parent.name))
    if unused:
        log.warning(
            f"{folder}: not used: {_list(unused, folder)}. Files must lie in the folder itself, and their names must "
            f"contain {_all_names()} as a word."
        )
    if foreign:
        log.warning(f"{folder}: not used: {_list(foreign)}. Only .h5 and .hdf5 files are read.")
    return found


def files_by_folder(folder: str | Path) -> Files:
    """Find the HDF5 files of each split in its folder (train/, val/ or validation/, test/, ...), sorted.

    HDF5 files elsewhere in `folder` are a warning. InputError if the folder does not exist, or if there is no file in
    the folder of any split. Hidden files and folders are ignored."""
    folder = _existing(folder, "train/, val/ and test/")
    found: Files = {split: [] for split in NAMES}
    unused = []
    for path in sorted(p for pattern in ("*", "*/*", "*/*/*") for p in hdf5_files(folder, pattern)):
        parts = path.relative_to(folder).parts
        split = next((split for split, known in NAMES.items() if parts[0].lower() in known), None)
        if split is not None and len(parts) == 2:
            found[split].append(path)
        else:
            unused.append(path)
    if not any(found.values()):
        elsewhere = f" only {_list(unused, folder)}" if unused else " none"
        raise InputError(
            f"{folder}: expected .h5 files in train/, val/ or test/, found{elsewhere}. Pass another folder with "
            f"--datadir, or move the files."
        )
    if unused:
        log.warning(
            f"{folder}: not used: {_list(unused, folder)}. Files must lie directly in a folder called {_all_names()}."
        )
    return found


def log_splits(found: Files, wanted: Iterable[str]) -> None:
    """Log which files belong to each wanted split, and warn of a validation or test split without files.

    (A run without training files ends with an error of its own.)"""
    for split in wanted:
        if found[split]:
            log.info(f"{split}: {_list(found[split], limit=20)}")
        elif split != "train":
            lost = "no epoch is validated" if split == "valid" else "nothing is reported after the training"
            log.warning(f"no {split} files (expected {_or(NAMES[split])} in their names): {lost}")


def hdf5_files(folder: Path, pattern: str) -> list[Path]:
    """Find the HDF5 files in a folder that match the pattern.

    Hidden files and folders are ignored: unfinished files begin with a dot, and so do the files `._X.h5` of macOS."""
    found = (p for p in folder.glob(pattern) if p.suffix.lower() in SUFFIXES)
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def _existing(folder: str | Path, content: str) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        reason = "is a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {reason}. Pass the folder with {content} with --datadir.")
    return folder


def _words_of(stem: str) -> list[str]:
    """Return the names of splits in the name of a file, as it spells them."""
    words = [word for known in NAMES.values() for word in known]
    return [f"'{word}'" for word in re.split(r"[^a-zA-Z]+", stem) if word.lower() in words]


def _all_names() -> str:
    return _or([word for known in NAMES.values() for word in known])


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _list(paths: Sequence[Path], folder: Path | None = None, limit: int = _LISTED) -> str:
    """List the names of files, relative to `folder` if it is given; at most `limit`."""
    names = [str(path.relative_to(folder)) if folder else path.name for path in paths]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
