"""Tables of particles and of fragments, and random directions."""

from dataclasses import dataclass

import numpy as np

from lartpc.argon import ELECTRON, MASS, MUON, PHOTON, momentum
from puffin.detector import PILARNET

SHOWER, TRACK, MICHEL, DELTA, LED = range(len(PILARNET.class_names))  # semantic classes


@dataclass
class Table:
    """Arrays of equal length; `table[mask]` selects rows of all of them."""

    def __len__(self):
        return len(next(iter(vars(self).values())))

    def __getitem__(self, rows):
        return type(self)(*(column[rows] for column in vars(self).values()))

    @classmethod
    def join(cls, tables):
        """Join the rows of several tables."""
        return cls(*(np.concatenate(columns) for columns in zip(*(vars(t).values() for t in tables), strict=False)))


@dataclass
class Particles(Table):
    """N particles.

    kind (N,): PHOTON ... PROTON; charge (N,): +1, -1 or 0; position (N, 3) [cm]; direction (N, 3): unit vectors;
    energy (N,): kinetic [MeV]; time (N,) [ns]; fragment (N,): the fragment that their deposits belong to."""

    kind: np.ndarray
    charge: np.ndarray
    position: np.ndarray
    direction: np.ndarray
    energy: np.ndarray
    time: np.ndarray
    fragment: np.ndarray

    @classmethod
    def at(cls, parents, kind, charge, direction, energy, fragment=None):
        """Make one particle per parent, at the position and time of the parent."""

        def full(value):
            return np.broadcast_to(np.asarray(value), len(parents)).copy()

        return cls(
            full(kind),
            full(charge),
            parents.position.copy(),
            direction,
            np.asarray(energy, float),
            parents.time.copy(),
            parents.fragment.copy() if fragment is None else fragment,
        )


@dataclass
class Fragments(Table):
    """Fragments: the deposits of a particle and of its secondaries of the same class.

    event, interaction: their numbers; root: first fragment of the group that a fragment belongs to; semantic: class;
    pid, mass [MeV], momentum [MeV] and vertex [cm]: those of the particle that started the fragment."""

    event: np.ndarray
    interaction: np.ndarray
    root: np.ndarray
    semantic: np.ndarray
    pid: np.ndarray
    mass: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray

    @classmethod
    def of_primaries(cls, particles, event, interaction):
        """Make one fragment per primary particle, in order."""
        semantic = np.where(particles.kind >= MUON, TRACK, SHOWER)
        return cls(
            event,
            interaction,
            np.arange(len(particles)),
            semantic,
            particles.kind,
            MASS[particles.kind],
            momentum(particles.kind, particles.energy),
            particles.position,
        )

    def begin(self, particles, semantic):
        """Return the table with a new fragment for each particle, and set `particles.fragment`, so far the parent's.

        A new fragment starts a new group, unless it is a shower that comes from another shower, a Michel electron or a
        delta ray."""
        parent, new = particles.fragment, len(self) + np.arange(len(particles))
        inherits = (semantic == SHOWER) & (self.semantic[parent] != TRACK)
        pid = np.where(inherits, self.pid[parent], PHOTON if semantic == SHOWER else particles.kind)
        added = Fragments(
            self.event[parent],
            self.interaction[parent],
            np.where(inherits, self.root[parent], new),
            np.full(len(new), semantic),
            pid,
            MASS[particles.kind],
            momentum(particles.kind, particles.energy),
            particles.position,
        )
        particles.fragment = new
        return Fragments.join([self, added])


def isotropic(number, rng):
    """Draw unit vectors (number, 3), uniform on the sphere."""
    vectors = rng.normal(size=(number, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def deflected(direction, cosine, rng):
    """Draw unit vectors with the given cosine (N,) of the angle to `direction` (N, 3), at a random azimuth."""
    x, y, z = direction.T
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    azimuth = rng.uniform(0, 2 * np.pi, len(cosine))
    a, b = sine * np.cos(azimuth), sine * np.sin(azimuth)
    # two vectors orthogonal to the direction: Duff et al., J. Comput. Graph. Tech. 6 (2017)
    sign = np.copysign(1.0, z)
    c = -1 / (sign + z)
    d = x * y * c
    first = np.stack([1 + sign * x * x * c, sign * d, -sign * x], 1)
    second = np.stack([d, sign + y * y * c, -y], 1)
    new = first * a[:, None] + second * b[:, None] + direction * cosine[:, None]
    return new / np.linalg.norm(new, axis=1, keepdims=True)


def electrons(parents, direction, energy):
    """Make electrons at the positions of their parents, in the fragments of the parents."""
    return Particles.at(parents, ELECTRON, -1, direction, energy)


def photons(parents, direction, energy):
    """Make photons at the positions of their parents, in the fragments of the parents."""
    return Particles.at(parents, PHOTON, 0, direction, energy)
