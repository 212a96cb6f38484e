"""Read blocks of jets from a file: momenta that are checked and scaled, and features of the particles."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from puffin.data.hdf5 import ArrayFile
from puffin.data.momenta import Source, check_jets, check_number, find_particles
from puffin.data.momentum_columns import CARTESIAN
from puffin.data.scalars import Scalar, scalars_of
from puffin.data.targets import ClassLabels, Momenta
from puffin.errors import InputError
from puffin.settings.jets import JetDataSettings, reads_observables

log = logging.getLogger("puffin")

MOMENTA, NUMBER = "Pmu", "Nobj"
_LAYOUT = "Write the momenta of the particles under this name, as docs/use_your_own_jets.md shows."
_LOOKED_AT = 1024  # jets of a block that is looked at more closely


@dataclass(frozen=True)
class JetSelection:
    """What to read from the files.

    target: what to predict for each jet, or None; target_needed: whether files without it are an InputError; if not,
    the jets have no targets, with a warning; nobj: maximum number of particles per jet, in file order (-1: all);
    scale: factor on the momenta; in_memory: read everything at the start; scalars: features of the particles; weights:
    key of the event weights, or ''; weights_needed: whether a file without that key is an InputError; if not, the
    events get no weights, with a warning; columns: what the four columns of the momenta hold; observables: whether
    to compute hand-made observables of all particles of each jet (jet_observables.py).
    """

    target: ClassLabels | Momenta | None = ClassLabels()
    nobj: int = -1
    scale: float = 1.0
    in_memory: bool = True
    scalars: tuple[Scalar, ...] = ()
    weights: str = ""
    weights_needed: bool = True
    columns: tuple[str, ...] = CARTESIAN
    observables: bool = False
    target_needed: bool = True

    def __post_init__(self):
        if self.nobj == 0 or self.nobj < -1:
            raise InputError(f"--nobj: expected a positive number, or -1 for all particles, got {self.nobj}")

    @classmethod
    def of(cls, data: JetDataSettings, target: ClassLabels | Momenta | None, **changes) -> Self:
        """Return what a network with these settings of the data reads; changes: fields with other values."""
        return replace(
            cls(
                target,
                data.nobj,
                data.scale,
                scalars=scalars_of(data),
                columns=data.momentum_columns,
                observables=reads_observables(data),
            ),
            **changes,
        )

    @property
    def width(self) -> int:
        """Number of columns of a particle: its momentum and its features."""
        return 4 + sum(s.width for s in self.scalars)


class Block(NamedTuple):
    """Particles of some jets, (n, 4 + S) float32, and the number of particles of each, (jets,)."""

    particles: np.ndarray
    counts: np.ndarray

    def jets(self, numbers: np.ndarray) -> "Block":
        """Return the block of some of the jets, (B,) ascending numbers."""
        if len(numbers) == len(self.counts):
            return self
        chosen = np.zeros(len(self.counts), bool)
        chosen[numbers] = True
        return Block(self.particles[np.repeat(chosen, self.counts)], self.counts[chosen])


class JetFile(ArrayFile):
    """An open file of jets."""

    def check(self, selection: JetSelection) -> int:
        """Return the number of jets; InputError if momenta or features are missing or have a wrong shape."""
        shape = self.array(MOMENTA, _LAYOUT).shape
        if len(shape) != 3 or shape[2] != 4:
            raise InputError(f"{self.path}: {MOMENTA}: expected shape (jets, particles, 4), got {shape}")
        if shape[0] == 0:
            raise InputError(f"{self.path}: {MOMENTA}: expected at least one jet, got none")
        for key in (s.key for s in selection.scalars):
            found = self.array(key, "It is required by --dataset, --read-pid or --scalars-keys.").shape
            if found != shape[:2]:
                raise InputError(f"{self.path}: {key}: expected {shape[:2]}, one number for each particle, got {found}")
        if NUMBER in self and self.array(NUMBER).shape not in (shape[:1], (*shape[:1], 1)):
            found = self.array(NUMBER).shape
            raise InputError(f"{self.path}: {NUMBER}: expected {shape[:1]}, one number for each jet, got {found}")
        return shape[0]

    def read(self, rows: slice, selection: JetSelection, look: bool = False) -> Block:
        """Read the particles of some jets.

        look: also check what only several jets show, such as the unit. InputError if a number is not finite, if a
        momentum is not that of a particle, or if the number of particles is not that of Nobj, if the file has it."""
        last = None if selection.nobj < 0 else selection.nobj
        source = Source(f"{self.path}: {MOMENTA}", rows.start, "event", selection.columns)
        found = find_particles(self.values(MOMENTA, rows, last), source, selection.scale)
        if NUMBER in self:
            stated = self.values(NUMBER, rows).reshape(-1)
            check_number(stated, found, found.valid.shape[1] == self.array(MOMENTA).shape[1], source)
        if look:
            few = found.counts[:_LOOKED_AT]
            first = found._replace(momenta=found.momenta[: few.sum()] / np.float32(selection.scale), counts=few)
            check_jets(first, source, scaled=selection.scale != 1)
        features = [s.columns(self._feature(s.key, rows, last)[found.valid]) for s in selection.scalars]
        particles = np.concatenate([found.momenta, *features], -1, dtype=np.float32) if features else found.momenta
        return Block(particles, found.counts)

    def _feature(self, key: str, rows: slice, last: int | None) -> np.ndarray:
        """Read a feature of the particles, (rows, particles); InputError if a number is not finite."""
        values = self.values(key, rows, last)
        finite = np.isfinite(values)
        if not finite.all():
            bad = rows.start + int((~finite.all(1)).argmax())
            raise InputError(f"{self.path}: {key} of event {bad} is not finite. Correct or remove the event.")
        return values


def look_at(file: JetFile, size: int, selection: JetSelection) -> tuple[float, bool]:
    """Check some jets of a file that is read later; return the fraction of jets without particles, and if it is exact.

    It is exact if the file is small or has Nobj; otherwise it is that of the first, middle and last jets. InputError as
    in `JetFile.read`, and if no jet has particles."""
    rows = min(_LOOKED_AT, size)
    starts = dict.fromkeys((0, (size - rows) // 2, size - rows))
    empty = [file.read(slice(start, start + rows), selection, look=start == 0).counts == 0 for start in starts]
    fraction = float(np.mean(empty))
    if fraction == 1:
        others = (
            file.read(slice(start, min(start + rows, size)), selection).counts.any() for start in range(0, size, rows)
        )
        if not any(others):
            fail_without_particles(file.path)
    if NUMBER in file:
        return float((file.values(NUMBER) == 0).mean()), True
    return fraction, size <= rows * len(starts)


def log_empty(path: Path, fraction: float, exact: bool) -> None:
    """Warn of jets without particles; InputError if no jet has any."""
    if fraction == 1 and exact:
        fail_without_particles(path)
    if fraction:
        about = "" if exact else "about "
        log.warning(
            f"{path}: {about}{100 * fraction:.3g}% of the jets have no particles. They are used as they are. If the "
            f"file was written only in part, write it again."
        )


def fail_without_particles(path: Path) -> None:
    """Raise the InputError of a file whose jets are all empty."""
    raise InputError(
        f"{path}: {MOMENTA}: no jet has particles, as all energies are 0. The array was probably never written: "
        f"write the file again."
    )
