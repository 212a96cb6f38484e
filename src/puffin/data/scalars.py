"""Numbers of each particle beside its momentum: which, from which keys of a file, and how they are prepared.

Source: spec section 1; the order of the columns is that of published checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from puffin.errors import InputError

# PDG codes of the particles that a detector tells apart
PDG_IDS = (22, 211, -211, 321, -321, 130, 2112, -2112, 2212, -2212, 11, -11, 13, -13)

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": lambda x: x,
    "tanh": np.tanh,
    "log": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "clip": lambda x: np.clip(x, -1, 1),
}


@dataclass(frozen=True)
class Scalar:
    """A feature of each particle: the key of its (N, M) numbers, and the columns made of it."""

    key: str
    width: int
    columns: Callable[[np.ndarray], np.ndarray]  # (...,) -> (..., width)


def plain(key: str, transform: str = "raw") -> Scalar:
    """One column, transformed: tanh, log is sign(x) log(1 + |x|), clip is to [-1, 1]."""
    if transform not in TRANSFORMS:
        raise InputError(f"--scalars-keys {key}:{transform}: expected one of {', '.join(TRANSFORMS)} after the colon")
    return Scalar(key, 1, lambda x: TRANSFORMS[transform](x)[..., None])


def one_hot(key: str, values: tuple[int, ...], others: bool = False) -> Scalar:
    """A column for each value and, if asked for, one for all others."""

    def columns(x: np.ndarray) -> np.ndarray:
        flags = np.round(x)[..., None] == np.array(values)
        return np.concatenate([flags, ~flags.any(-1, keepdims=True)], -1) if others else flags

    return Scalar(key, len(values) + others, columns)


_JETCLASS = (
    "isChargedHadron",
    "isElectron",
    "isMuon",
    "isNeutralHadron",
    "isPhoton",
    "d0val",
    "d0err",
    "dzval",
    "dzerr",
)
DATASETS = {
    "jet": (),
    "qg": (one_hot("pdgid", PDG_IDS),),
    "jc": (one_hot("charge", (-1, 0, 1)), *(plain(key) for key in _JETCLASS)),
}


def chosen_scalars(dataset: str, read_pid: bool, keys: list[str]) -> tuple[Scalar, ...]:
    """Features by the flags --dataset, --read-pid and --scalars-keys (key or key:transform), in this order."""
    pid = (one_hot("pdgid", PDG_IDS, others=True),) if read_pid else ()
    return (*DATASETS[dataset], *pid, *(plain(*key.split(":", 1)) for key in keys))
