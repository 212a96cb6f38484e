"""Names of the classes of jets, from the attributes of their files."""

import logging
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np

from puffin.data.hdf5 import open_hdf5

log = logging.getLogger("puffin")

SIGNAL = "is_signal"
NUMBERED = ("jet_tag", "signal_type")  # the targets whose classes the attributes of a file name


def class_names(files: Iterable[str | Path], target: str, num_classes: int) -> tuple[str, ...]:
    """Return the names of the classes of a target in the order of their numbers; () if the files do not name them all.

    The converters write the attribute `classes`, data/make_jets.py `processes`. A data set may have an attribute
    `classes` of its own. If files name different classes, there is a warning, and no names."""
    found: dict[tuple[str, ...], Path] = {}
    for path in map(Path, files):
        with open_hdf5(path) as file:
            names = _names_of_file(file, target)
        if len(names) == num_classes:
            found.setdefault(names, path)
    if len(found) > 1:
        listed = "; ".join(f"{path}: {', '.join(names)}" for names, path in found.items())
        log.warning(
            f"--target {target}: the files name their classes differently, so class numbers mean different "
            f"things ({listed})"
        )
        return ()
    return next(iter(found), ("background", "signal") if (target, num_classes) == (SIGNAL, 2) else ())


def _names_of_file(file: h5py.File, target: str) -> tuple[str, ...]:
    """Return the names of the classes in a file, () without any."""
    if target in file and "classes" in file[target].attrs:
        return _texts(file[target].attrs["classes"])
    if target not in NUMBERED:
        return ()
    if "classes" in file.attrs:
        return _texts(file.attrs["classes"])
    processes = _texts(file.attrs.get("processes", ()))  # "top (1000 jets): pp -> t tbar, ..."
    return tuple(text.split(" (")[0].split(":")[0] for text in processes)


def _texts(values) -> tuple[str, ...]:
    texts = np.atleast_1d(np.asarray(values, object)).tolist()
    return tuple(text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts)
