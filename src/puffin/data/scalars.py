"""Features of each particle besides its four-momentum: which keys of a file they come from and how they are scaled.

Source: docs/MATHEMATICS_PELICAN.md, section 1. The order of the columns is that of published checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from puffin.errors import InputError
from puffin.settings import names
from puffin.settings.jets import JetDataSettings
from puffin.settings.jets import names as split_names

# PDG codes of the particles that a detector can distinguish
PDG_IDS = (22, 211, -211, 321, -321, 130, 2112, -2112, 2212, -2212, 11, -11, 13, -13)


def _raw(x: np.ndarray) -> np.ndarray:
    return x


def _log(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.log1p(np.abs(x))


def _clip(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -1, 1)


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"raw": _raw, "tanh": np.tanh, "log": _log, "clip": _clip}
assert tuple(TRANSFORMS) == tuple(names.TRANSFORMS)


@dataclass(frozen=True)
class Plain:
    """A feature of each particle: one column, computed by one of TRANSFORMS from the (N, M) numbers under a key."""

    key: str
    transform: str = "raw"

    width: ClassVar[int] = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the column."""
        return (self.key if self.transform == "raw" else f"{self.key}:{self.transform}",)

    def columns(self, x: np.ndarray) -> np.ndarray:
        """Compute the column (..., 1) from the stored numbers (...,)."""
        return TRANSFORMS[self.transform](x)[..., None]


@dataclass(frozen=True)
class OneHot:
    """A feature of each particle: one column for each value under a key and, with `others`, one for all others."""

    key: str
    values: tuple[int, ...]
    others: bool = False

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{self.key}={value}" for value in (*self.values, *("other",) * self.others))

    def columns(self, x: np.ndarray) -> np.ndarray:
        """Compute the columns (..., width) bool from the stored numbers (...,)."""
        flags = np.round(x)[..., None] == np.array(self.values)
        return np.concatenate([flags, ~flags.any(-1, keepdims=True)], -1) if self.others else flags


# Features are sent to worker processes, so they are plain values without functions.
Scalar = Plain | OneHot


def plain(key: str, transform: str = "raw") -> Plain:
    """Make a feature of one column; InputError for a transform that is none of TRANSFORMS."""
    if transform not in TRANSFORMS:
        raise InputError(f"--scalars-keys {key}:{transform}: expected one of {', '.join(TRANSFORMS)} after the colon")
    return Plain(key, transform)


_JETCLASS = "isChargedHadron isElectron isMuon isNeutralHadron isPhoton d0val d0err dzval dzerr".split()
# which features a kind of jets has
DATASETS = {
    "jet": (),
    "qg": (OneHot("pdgid", PDG_IDS),),
    "jc": (OneHot("charge", (-1, 0, 1)), *(Plain(key) for key in _JETCLASS)),
}
assert tuple(DATASETS) == tuple(names.JET_DATASETS)


def chosen_scalars(dataset: str, read_pid: bool, keys: list[str]) -> tuple[Scalar, ...]:
    """Return the features chosen by --dataset, --read-pid and --scalars-keys (key or key:transform), in this order."""
    pid = (OneHot("pdgid", PDG_IDS, others=True),) if read_pid else ()
    return (*DATASETS[dataset], *pid, *(plain(*key.split(":", 1)) for key in keys))


def scalars_of(data: JetDataSettings) -> tuple[Scalar, ...]:
    """Return the features that the settings of a run choose."""
    return chosen_scalars(data.dataset, data.read_pid, split_names(data.scalars_keys))
