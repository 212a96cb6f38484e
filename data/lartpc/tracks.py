"""Charged particles, stepped together: ionization with its straggling, delta rays, bremsstrahlung, scattering, range-out."""

from dataclasses import dataclass

import numpy as np

from lartpc import argon
from lartpc.argon import ELECTRON, ELECTRON_MASS, LIGHT, PION, PROTON, X0
from lartpc.particles import Particles, Table, electrons, photons, turned

VOXEL = 0.3  # cm; also the longest step
SIZE = 768  # voxels along an edge of the detector
EDGE = VOXEL * SIZE  # cm
HARD = 0.02  # MeV; collisions above are drawn one by one, the rest is a Gaussian
DELTA = 0.3  # MeV; electrons knocked out with more are followed
SOFTEST_PHOTON = 0.03  # MeV; bremsstrahlung below is deposited on the spot
STOPPED = np.array([0, 0.05, 1.0, 1.0, 1.0])  # MeV by kind; with less, a particle is where it will end
LARGEST_LOSS = 0.2  # share of the energy that a step loses, on average


@dataclass
class Segments(Table):
    """Energy [MeV] left along straight pieces from `start` (N, 3) to `end` (N, 3) cm, none longer than a voxel."""

    start: np.ndarray
    end: np.ndarray
    energy: np.ndarray
    length: np.ndarray
    time: np.ndarray
    fragment: np.ndarray


@dataclass
class Outcome:
    """What transport gives: deposits, what was knocked out or radiated, and the particles that stopped or hit a nucleus.

    deltas: electrons that still carry the fragment of the particle that knocked them out, whose kind is `struck_by`."""

    segments: Segments
    deltas: Particles
    struck_by: np.ndarray
    photons: Particles
    stopped: Particles
    interacted: Particles
    escaped: float  # MeV, kinetic


def inside(position):
    """Whether positions (N, 3) lie in the detector, a cube with one corner at the origin."""
    return ((position >= 0) & (position < EDGE)).all(1)


def hard_collisions(kind, energy, length, rng):
    """Collisions of more than HARD MeV on a step: (numbers of the particles, energies given away [MeV]).

    dN = xi dT / T^2 (1 - beta^2 T / Tmax) for heavy particles (PDG-P); for electrons dN = xi dT / T^2 up to half their
    energy, the leading term of Moller scattering."""
    beta, top, form = _spectrum(kind, energy)
    number = rng.poisson(argon.xi(beta, length) * np.maximum(1 / HARD - 1 / top, 0))
    who = np.repeat(np.arange(len(kind)), number)
    given = 1 / (1 / HARD - rng.random(len(who)) * (1 / HARD - 1 / top[who]))
    keep = rng.random(len(who)) > form[who] * given / top[who]
    return who[keep], given[keep]


def soft_collisions(kind, energy, length, loss, rng):
    """Energy [MeV] given away on a step in collisions of less than HARD: a Gaussian.

    Its mean is what hard_collisions leaves of the mean `loss` [MeV/cm]; its variance is the integral of T^2 dN."""
    beta, top, form = _spectrum(kind, energy)
    xi, cut = argon.xi(beta, length), np.minimum(HARD, top)
    mean = loss * length - xi * (np.log(top / cut) - form * (1 - cut / top))
    width = np.sqrt(xi * cut * (1 - form * cut / (2 * top)))
    return np.maximum(mean + width * rng.normal(size=len(kind)), 0)


def _spectrum(kind, energy):
    beta, _ = argon.beta_gamma(kind, energy)
    light = kind == ELECTRON
    top = np.where(light, energy / 2, argon.largest_transfer(kind, energy))
    return beta, top, np.where(light, 0.0, beta**2)


def bremsstrahlung(energy, length, rng):
    """Photons above SOFTEST_PHOTON that electrons radiate on a step: (numbers of the electrons, photon energies [MeV]).

    dN/dk = (4/3 - 4/3 y + y^2) / (X0 k), y = k / E: complete screening (PDG-P)."""
    total = energy + ELECTRON_MASS
    number = rng.poisson(4 / 3 * np.log(np.maximum(total / SOFTEST_PHOTON, 1)) * length / X0)
    who = np.repeat(np.arange(len(energy)), number)
    k = SOFTEST_PHOTON * (total[who] / SOFTEST_PHOTON) ** rng.random(len(who))
    y = k / total[who]
    keep = (rng.random(len(who)) < 1 - y + 0.75 * y**2) & (k < energy[who])
    return who[keep], k[keep]


def transport(particles, table, rng):
    """Step charged particles until each has stopped, hit a nucleus or left the detector.  table: argon.CollisionTable."""
    none = particles[:0]
    found = {name: [none] for name in ("deltas", "photons", "stopped", "interacted")}
    struck_by, segments, escaped, now = (
        [none.kind],
        [_segments(none, none.position, none.energy, none.energy)],
        0.0,
        particles,
    )
    while len(now):
        loss = table(now.kind, now.energy)
        length = np.minimum(VOXEL, LARGEST_LOSS * now.energy / loss)
        deposit, taken, (who, given), (emitter, k) = _losses(now, length, loss, rng)

        start = now
        now = _moved(now, length, now.energy - deposit - taken, rng)
        segments.append(_segments(start, now.position, deposit, length))
        found["deltas"].append(electrons(now[who], _recoil(start[who], given, rng), given))
        struck_by.append(start.kind[who])
        found["photons"].append(photons(now[emitter], _radiated(start[emitter], rng), k))

        within = inside(now.position)
        escaped += float(now.energy[~within].sum())
        hit = within & _hits_nucleus(now, length, rng)
        ends = within & ~hit & (now.energy <= STOPPED[now.kind])
        segments.append(_segments(now[ends], now.position[ends], now.energy[ends], now.energy[ends] / loss[ends]))
        found["interacted"].append(now[hit])
        found["stopped"].append(now[ends])
        now = now[within & ~hit & ~ends]
    joined = {name: Particles.join(tables) for name, tables in found.items()}
    return Outcome(Segments.join(segments), struck_by=np.concatenate(struck_by), escaped=escaped, **joined)


def _losses(now, length, loss, rng):
    """Energies of one step: deposited (N,); given to deltas and photons (N,); the deltas and the photons, (owners, energies).

    No particle gives more than it has."""
    count = len(now)
    who, given = hard_collisions(now.kind, now.energy, length, rng)
    light = np.flatnonzero(now.kind == ELECTRON)
    emitter, k = bremsstrahlung(now.energy[light], length[light], rng)
    emitter = light[emitter]
    soft = soft_collisions(now.kind, now.energy, length, loss, rng)
    soft[light] += 4 / 3 * SOFTEST_PHOTON * length[light] / X0

    hard = np.bincount(who, given, count) + np.bincount(emitter, k, count)
    shrink = np.minimum(1, now.energy / np.maximum(hard, 1e-12))
    given, k = given * shrink[who], k * shrink[emitter]
    far = given > DELTA
    taken = np.bincount(who[far], given[far], count) + np.bincount(emitter, k, count)
    deposit = np.minimum(soft + np.bincount(who[~far], given[~far], count), np.maximum(now.energy - taken, 0))
    return deposit, taken, (who[far], given[far]), (emitter, k)


def _moved(now, length, energy, rng):
    """The particles after a step: place, time and a new direction by multiple scattering."""
    beta, _ = argon.beta_gamma(now.kind, now.energy)
    width = argon.scattering_angle(now.kind, now.energy, length)
    angle = width * np.sqrt(2 * rng.exponential(size=len(now)))  # two planes together
    return Particles(
        now.kind,
        now.charge,
        now.position + length[:, None] * now.direction,
        turned(now.direction, np.cos(np.minimum(angle, np.pi)), rng),
        np.maximum(energy, 0),
        now.time + length / (beta * LIGHT),
        now.fragment,
    )


def _recoil(parents, given, rng):
    """Directions of electrons knocked out: cos = T p_max / (p T_max) (PDG-P)."""
    top = argon.largest_transfer(parents.kind, parents.energy)
    cosine = given / argon.momentum(ELECTRON, given) * argon.momentum(ELECTRON, top) / top
    return turned(parents.direction, np.minimum(cosine, 1), rng)


def _radiated(parents, rng):
    """Directions of bremsstrahlung, at angles of the order of m / E."""
    angle = ELECTRON_MASS / (parents.energy + ELECTRON_MASS) * rng.exponential(size=len(parents))
    return turned(parents.direction, np.cos(np.minimum(angle, np.pi)), rng)


def _hits_nucleus(now, length, rng):
    """Whether hadrons interact on a step, by the interaction lengths of PDG-A."""
    rate = np.select([now.kind == PION, now.kind == PROTON], [1 / argon.PION_LENGTH, 1 / argon.NUCLEAR_LENGTH], 0.0)
    return rng.random(len(now)) < rate * length


def _segments(particles, end, energy, length):
    return Segments(particles.position, end, energy, length, particles.time, particles.fragment)
