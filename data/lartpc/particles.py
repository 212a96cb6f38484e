"""Tables of particles and of fragments, and random directions."""

from dataclasses import dataclass

import numpy as np

from lartpc.argon import ELECTRON, MASS, MUON, PHOTON, momentum

SHOWER, TRACK, MICHEL, DELTA, LED = range(5)  # semantic classes of PILArNet-M


@dataclass
class Table:
    """Arrays of equal length; `table[mask]` takes rows of all of them."""

    def __len__(self):
        return len(next(iter(vars(self).values())))

    def __getitem__(self, rows):
        return type(self)(*(column[rows] for column in vars(self).values()))

    @classmethod
    def join(cls, tables):
        """The rows of several tables, one after another."""
        return cls(*(np.concatenate(columns) for columns in zip(*(vars(t).values() for t in tables), strict=False)))


@dataclass
class Particles(Table):
    """N particles: kind (PHOTON ... PROTON), charge (+-1, 0), position (N, 3) cm, direction (N, 3), kinetic energy MeV,
    time ns, and the fragment to which their deposits belong."""

    kind: np.ndarray
    charge: np.ndarray
    position: np.ndarray
    direction: np.ndarray
    energy: np.ndarray
    time: np.ndarray
    fragment: np.ndarray

    @classmethod
    def at(cls, parents, kind, charge, direction, energy, fragment=None):
        """Particles that begin where and when their parents are, one for each."""

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
    """What a particle and its close relatives leave. root: the fragment that stands for the group; momentum MeV and vertex
    cm are those of the particle that began it."""

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
        """One fragment for each primary particle, in order."""
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
        """The table with a new fragment for each particle, whose `fragment` so far is its parent's and is updated.

        A group of its own, except for a shower that comes out of another shower, a Michel electron or a delta ray."""
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
    """Unit vectors (number, 3), uniform on the sphere."""
    vectors = rng.normal(size=(number, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def turned(direction, cosine, rng):
    """Unit vectors at a polar angle to `direction` (N, 3), given by its cosine (N,), at a random azimuth."""
    x, y, z = direction.T
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    azimuth = rng.uniform(0, 2 * np.pi, len(cosine))
    a, b = sine * np.cos(azimuth), sine * np.sin(azimuth)
    # two vectors across: Duff et al., J. Comput. Graph. Tech. 6 (2017), without a special direction
    sign = np.copysign(1.0, z)
    c = -1 / (sign + z)
    d = x * y * c
    across = np.stack([1 + sign * x * x * c, sign * d, -sign * x], 1)
    beyond = np.stack([d, sign + y * y * c, -y], 1)
    new = across * a[:, None] + beyond * b[:, None] + direction * cosine[:, None]
    return new / np.linalg.norm(new, axis=1, keepdims=True)


def electrons(parents, direction, energy):
    """Electrons that begin at their parents, in the parents' fragments."""
    return Particles.at(parents, ELECTRON, -1, direction, energy)


def photons(parents, direction, energy):
    """Photons that begin at their parents, carrying the parents' fragments."""
    return Particles.at(parents, PHOTON, 0, direction, energy)
