"""Targets of a jet: its class, or four-momenta of the particles that initiated it."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from puffin.errors import InputError, first_line


@dataclass(frozen=True)
class ClassLabels:
    """Class numbers of jets, stored under a key as (N,) or one-hot (N, K)."""

    key: str = "is_signal"

    def read(self, file: h5py.File, path: Path, num_events: int) -> np.ndarray:
        """Read class numbers (N,) int64; InputError unless these are 0, 1, 2, ..., or rows with a single 1."""
        labels = _read(file, path, self.key)
        if np.ndim(labels) not in (1, 2) or len(labels) != num_events:
            raise InputError(
                f"{path}: {self.key}: expected ({num_events},) or ({num_events}, classes), one row for each jet, "
                f"got {np.shape(labels)}"
            )
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim == 2:
            jet = first_not_one_hot(labels)
            if jet is not None:
                raise InputError(
                    f"{path}: {self.key}: jet {jet}: expected exactly one of the {labels.shape[1]} numbers to be 1 and "
                    f"the others 0. Choose another key with --target."
                )
            labels = labels.argmax(1)
        whole = labels.astype(np.int64)
        if not np.array_equal(whole, labels) or (whole < 0).any():
            raise InputError(
                f"{path}: {self.key}: expected class numbers 0, 1, 2, ..., got other values. "
                f"Choose another key with --target."
            )
        return whole

    def known(self, labels: np.ndarray) -> np.ndarray:
        """Return for each jet whether it has a label, (N,) bool: always true."""
        return np.ones(len(labels), bool)


@dataclass(frozen=True)
class Momenta:
    """Four-momenta [GeV] of jets, stored under one or several keys, each (N, 4) or (N, T, 4); all zero: unknown."""

    keys: tuple[str, ...] = ("truth_Pmu",)

    def read(self, file: h5py.File, path: Path, num_events: int) -> np.ndarray:
        """Read the momenta (N, T, 4) float32; InputError for other shapes and for numbers that are not finite."""
        parts = []
        for key in self.keys:
            momenta = _read(file, path, key)
            if momenta.shape[0] != num_events or momenta.ndim not in (2, 3) or momenta.shape[-1] != 4:
                raise InputError(
                    f"{path}: {key}: expected ({num_events}, 4) or ({num_events}, targets, 4), got {momenta.shape}"
                )
            finite = np.isfinite(momenta).reshape(num_events, -1).all(1)
            if not finite.all():
                raise InputError(f"{path}: {key}: not finite for event {int(finite.argmin())}")
            parts.append(momenta.reshape(num_events, -1, 4))
        return np.concatenate(parts, 1).astype(np.float32, copy=False)

    def known(self, momenta: np.ndarray) -> np.ndarray:
        """Return for each jet whether all its momenta are known, (N,) bool."""
        return momenta.any(2).all(1)


def first_not_one_hot(rows: np.ndarray) -> int | None:
    """Return the first of rows (N, K) that is not a single 1 among zeros, or None if there is no such row."""
    wrong = ((rows != 0) & (rows != 1)).any(1) | (rows.sum(1) != 1)
    return int(wrong.argmax()) if wrong.any() else None


def read_weights(file: h5py.File, path: Path, key: str, num_events: int) -> np.ndarray:
    """Read event weights (N,) float32; InputError unless they are finite and not negative."""
    weights = _read(file, path, key)
    if weights.shape != (num_events,):
        raise InputError(f"{path}: {key}: expected ({num_events},), one weight for each jet, got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(f"{path}: {key}: expected finite weights that are not negative")
    return weights.astype(np.float32)


def _read(file: h5py.File, path: Path, key: str) -> np.ndarray:
    if key not in file:
        raise InputError(
            f"{path}: key '{key}' not found (has: {', '.join(sorted(file.keys())) or 'none'}). "
            f"Choose one with --target or --weights-key."
        )
    try:
        return file[key][()]
    except OSError as error:
        raise InputError(f"{path}: cannot read {key} ({first_line(error)}). The file may be damaged.") from error
