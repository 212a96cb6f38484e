"""Targets of a jet: its class, or four-momenta of the particles that initiated it."""

from dataclasses import dataclass

import numpy as np

from puffin.data.hdf5 import ArrayFile
from puffin.data.momenta import Source, find_particles
from puffin.data.momentum_columns import CARTESIAN, cartesian
from puffin.errors import InputError

_REMEDY = "Choose another key with --target."


@dataclass(frozen=True)
class ClassLabels:
    """Class numbers of jets, stored under a key as (N,) or one-hot (N, K)."""

    key: str = "is_signal"

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of a file that hold the targets."""
        return (self.key,)

    def read(self, file: ArrayFile, num_events: int) -> np.ndarray:
        """Read class numbers (N,) int64; InputError unless these are 0, 1, 2, ..., or rows with a single 1."""
        labels = file.values(self.key, remedy=_REMEDY)
        if np.ndim(labels) not in (1, 2) or len(labels) != num_events:
            raise InputError(
                f"{file.path}: {self.key}: expected ({num_events},) or ({num_events}, classes), one row for each jet, "
                f"got {np.shape(labels)}"
            )
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim == 2:
            jet = first_not_one_hot(labels)
            if jet is not None:
                raise InputError(
                    f"{file.path}: {self.key}: jet {jet}: expected exactly one of the {labels.shape[1]} numbers to be "
                    f"1 and the others 0. {_REMEDY}"
                )
            labels = labels.argmax(1)
        whole = labels.astype(np.int64)
        if not np.array_equal(whole, labels) or (whole < 0).any():
            raise InputError(
                f"{file.path}: {self.key}: expected class numbers 0, 1, 2, ..., got other values. {_REMEDY}"
            )
        return whole

    def known(self, labels: np.ndarray) -> np.ndarray:
        """Return for each jet whether it has a label, (N,) bool: always true."""
        return np.ones(len(labels), bool)


@dataclass(frozen=True)
class Momenta:
    """Four-momenta [GeV] of jets, stored under one or several keys, each (N, 4) or (N, T, 4); all zero: unknown.

    columns: what the four columns hold."""

    keys: tuple[str, ...] = ("truth_Pmu",)
    columns: tuple[str, ...] = CARTESIAN

    def read(self, file: ArrayFile, num_events: int) -> np.ndarray:
        """Read the momenta (N, T, 4) float32: E, px, py, pz; InputError for other shapes and for impossible momenta."""
        parts = []
        for key in self.keys:
            momenta = file.values(key, remedy=_REMEDY)
            if momenta.ndim not in (2, 3) or momenta.shape[0] != num_events or momenta.shape[-1] != 4:
                raise InputError(
                    f"{file.path}: {key}: expected ({num_events}, 4) or ({num_events}, targets, 4), got {momenta.shape}"
                )
            momenta = momenta.reshape(num_events, -1, 4)
            find_particles(momenta, Source(f"{file.path}: {key}", what="event", columns=self.columns))
            parts.append(cartesian(momenta, self.columns))
        return np.concatenate(parts, 1).astype(np.float32, copy=False)

    def known(self, momenta: np.ndarray) -> np.ndarray:
        """Return for each jet whether all its momenta are known, (N,) bool."""
        return momenta.any(2).all(1)


def first_not_one_hot(rows: np.ndarray) -> int | None:
    """Return the first of rows (N, K) that is not a single 1 among zeros, or None if there is no such row."""
    wrong = ((rows != 0) & (rows != 1)).any(1) | (rows.sum(1) != 1)
    return int(wrong.argmax()) if wrong.any() else None


def read_weights(file: ArrayFile, key: str, num_events: int) -> np.ndarray:
    """Read event weights (N,) float32; InputError unless they are finite and not negative."""
    weights = file.values(key, remedy="Choose another key with --weights-key.")
    if weights.shape != (num_events,):
        raise InputError(f"{file.path}: {key}: expected ({num_events},), one weight for each jet, got {weights.shape}")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        event = int(wrong.argmax())
        raise InputError(
            f"{file.path}: {key} of event {event}: expected a finite weight that is not negative, got "
            f"{weights[event]:g}. Correct the weights, or choose another key with --weights-key."
        )
    return weights.astype(np.float32)
