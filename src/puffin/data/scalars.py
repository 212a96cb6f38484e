"""Features of each particle besides its four-momentum: which keys of a file they come from and how they are scaled.

Source: docs/MATHEMATICS_PELICAN.md, section 1. The order of the columns is that of published checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from puffin.errors import InputError
from puffin.settings import names

# PDG codes of the particles that a detector can distinguish
PDG_IDS = (22, 211, -211, 321, -321, 130, 2112, -2112, 2212, -2212, 11, -11, 13, -13)

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": lambda x: x,
    "tanh": np.tanh,
    "log": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "clip": lambda x: np.clip(x, -1, 1),
}
assert tuple(TRANSFORMS) == tuple(names.TRANSFORMS)


@dataclass(frozen=True)
class Scalar:
    """A feature of each particle: the key of its (N, M) numbers, and `width` input columns computed from it."""

    key: str
    width: int
    columns: Callable[[np.ndarray], np.ndarray]  # (...,) -> (..., width)


def plain(key: str, transform: str = "raw") -> Scalar:
    """Make a feature of one column, scaled by one of TRANSFORMS; InputError for another transform."""
    if transform not in TRANSFORMS:
        raise InputError(f"--scalars-keys {key}:{transform}: expected one of {', '.join(TRANSFORMS)} after the colon")
    return Scalar(key, 1, lambda x: TRANSFORMS[transform](x)[..., None])


def one_hot(key: str, values: tuple[int, ...], others: bool = False) -> Scalar:
    """Make a feature of one column for each value and, with `others`, one column for all other values."""

    def columns(x: np.ndarray) -> np.ndarray:
        flags = np.round(x)[..., None] == np.array(values)
        return np.concatenate([flags, ~flags.any(-1, keepdims=True)], -1) if others else flags

    return Scalar(key, len(values) + others, columns)


_JETCLASS = "isChargedHadron isElectron isMuon isNeutralHadron isPhoton d0val d0err dzval dzerr".split()
# which features a kind of jets has
DATASETS = {
    "jet": (),
    "qg": (one_hot("pdgid", PDG_IDS),),
    "jc": (one_hot("charge", (-1, 0, 1)), *(plain(key) for key in _JETCLASS)),
}
assert tuple(DATASETS) == tuple(names.JET_DATASETS)


def chosen_scalars(dataset: str, read_pid: bool, keys: list[str]) -> tuple[Scalar, ...]:
    """Return the features chosen by --dataset, --read-pid and --scalars-keys (key or key:transform), in this order."""
    pid = (one_hot("pdgid", PDG_IDS, others=True),) if read_pid else ()
    return (*DATASETS[dataset], *pid, *(plain(*key.split(":", 1)) for key in keys))
