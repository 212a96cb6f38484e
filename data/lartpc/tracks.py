"""Transport of charged particles in steps.

Includes ionization with straggling, delta rays, bremsstrahlung, multiple scattering and stopping.
"""

from dataclasses import dataclass

import numpy as np

from lartpc import argon
from lartpc.argon import ELECTRON, ELECTRON_MASS, LIGHT, PION, PROTON, X0
from lartpc.particles import Particles, Table, deflected, electrons, photons
from puffin.detector import PILARNET

VOXEL = PILARNET.voxel_cm  # cm; also the maximum step length
SIZE = PILARNET.size  # voxels along an edge of the detector
EDGE = VOXEL * SIZE  # cm
HARD = 0.02  # MeV; collisions above are drawn one by one, the sum of those below from a Gaussian
DELTA = 0.3  # MeV; electrons that are knocked out with more are simulated
SOFTEST_PHOTON = 0.03  # MeV; bremsstrahlung below is deposited locally
STOPPED = np.array([0, 0.05, 1.0, 1.0, 1.0])  # MeV, by kind; a particle with less stops at once
LARGEST_LOSS = 0.2  # maximum mean energy loss per step, as a fraction of the energy


@dataclass
class Segments(Table):
    """Energy [MeV] deposited on straight lines from `start` (N, 3) to `end` (N, 3) [cm], at most a voxel long."""

    start: np.ndarray
    end: np.ndarray
    energy: np.ndarray
    length: np.ndarray
    time: np.ndarray
    fragment: np.ndarray


@dataclass
class Outcome:
    """Result of `transport`: deposits, secondary particles, and the particles that stopped or hit a nucleus.

    deltas: electrons that were knocked out, in the fragments of their parents; struck_by: kinds of the parents."""

    segments: Segments
    deltas: Particles
    struck_by: np.ndarray
    photons: Particles
    stopped: Particles
    interacted: Particles
    escaped: float  # MeV, kinetic energy that left the detector


def inside(position):
    """Return whether positions (N, 3) lie in the detector, a cube with one corner at the origin."""
    return ((position >= 0) & (position < EDGE)).all(1)


def hard_collisions(kind, energy, length, rng):
    """Draw the collisions above HARD MeV of one step: (indices of the particles, transferred energies [MeV]).

    dN = xi dT / T^2 (1 - beta^2 T / Tmax) for heavy particles (PDG-P); for electrons dN = xi dT / T^2 up to half their
    energy, the leading term of Moller scattering."""
    beta, top, form = _spectrum(kind, energy)
    number = rng.poisson(argon.xi(beta, length) * np.maximum(1 / HARD - 1 / top, 0))
    parent = np.repeat(np.arange(len(kind)), number)
    transfer = 1 / (1 / HARD - rng.random(len(parent)) * (1 / HARD - 1 / top[parent]))
    keep = rng.random(len(parent)) > form[parent] * transfer / top[parent]
    return parent[keep], transfer[keep]


def soft_collisions(kind, energy, length, loss, rng):
    """Draw the energy [MeV] lost in one step in collisions below HARD from a Gaussian.

    Its mean is the mean `loss` [MeV/cm] without that of hard_collisions; its variance is the integral of T^2 dN."""
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
    """Draw the photons above SOFTEST_PHOTON that electrons radiate in one step: (indices of electrons, energies [MeV]).

    dN/dk = (4/3 - 4/3 y + y^2) / (X0 k), y = k / E: complete screening (PDG-P)."""
    total = energy + ELECTRON_MASS
    number = rng.poisson(4 / 3 * np.log(np.maximum(total / SOFTEST_PHOTON, 1)) * length / X0)
    parent = np.repeat(np.arange(len(energy)), number)
    k = SOFTEST_PHOTON * (total[parent] / SOFTEST_PHOTON) ** rng.random(len(parent))
    y = k / total[parent]
    keep = (rng.random(len(parent)) < 1 - y + 0.75 * y**2) & (k < energy[parent])
    return parent[keep], k[keep]


def transport(particles, table, rng):
    """Step charged particles until each has stopped, hit a nucleus or left the detector; table: a CollisionTable."""
    none = particles[:0]
    found = {name: [none] for name in ("deltas", "photons", "stopped", "interacted")}
    struck_by, segments = [none.kind], [_segments(none, none.position, none.energy, none.energy)]
    escaped, now = 0.0, particles
    while len(now):
        loss = table(now.kind, now.energy)
        length = np.minimum(VOXEL, LARGEST_LOSS * now.energy / loss)
        deposit, emitted, (parent, transfer), (emitter, k) = _losses(now, length, loss, rng)

        start = now
        now = _moved(now, length, now.energy - deposit - emitted, rng)
        segments.append(_segments(start, now.position, deposit, length))
        found["deltas"].append(electrons(now[parent], _recoil(start[parent], transfer, rng), transfer))
        struck_by.append(start.kind[parent])
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
    """Draw the energy losses of one step.

    Returns the energies deposited (N,) and carried away by deltas and photons (N,), then the deltas and the photons,
    each as (indices of the parents, energies). No particle loses more energy than it has."""
    count = len(now)
    parent, transfer = hard_collisions(now.kind, now.energy, length, rng)
    light = np.flatnonzero(now.kind == ELECTRON)
    emitter, k = bremsstrahlung(now.energy[light], length[light], rng)
    emitter = light[emitter]
    soft = soft_collisions(now.kind, now.energy, length, loss, rng)
    soft[light] += 4 / 3 * SOFTEST_PHOTON * length[light] / X0

    hard = np.bincount(parent, transfer, count) + np.bincount(emitter, k, count)
    shrink = np.minimum(1, now.energy / np.maximum(hard, 1e-12))
    transfer, k = transfer * shrink[parent], k * shrink[emitter]
    is_delta = transfer > DELTA
    emitted = np.bincount(parent[is_delta], transfer[is_delta], count) + np.bincount(emitter, k, count)
    local = soft + np.bincount(parent[~is_delta], transfer[~is_delta], count)
    deposit = np.minimum(local, np.maximum(now.energy - emitted, 0))
    return deposit, emitted, (parent[is_delta], transfer[is_delta]), (emitter, k)


def _moved(now, length, energy, rng):
    """Move the particles by one step, with a new direction from multiple scattering."""
    beta, _ = argon.beta_gamma(now.kind, now.energy)
    width = argon.scattering_angle(now.kind, now.energy, length)
    angle = width * np.sqrt(2 * rng.exponential(size=len(now)))  # both planes together
    return Particles(
        now.kind,
        now.charge,
        now.position + length[:, None] * now.direction,
        deflected(now.direction, np.cos(np.minimum(angle, np.pi)), rng),
        np.maximum(energy, 0),
        now.time + length / (beta * LIGHT),
        now.fragment,
    )


def _recoil(parents, transfer, rng):
    """Draw the directions of electrons that are knocked out: cos = T p_max / (p T_max) (PDG-P)."""
    top = argon.largest_transfer(parents.kind, parents.energy)
    cosine = transfer / argon.momentum(ELECTRON, transfer) * argon.momentum(ELECTRON, top) / top
    return deflected(parents.direction, np.minimum(cosine, 1), rng)


def _radiated(parents, rng):
    """Draw the directions of bremsstrahlung, at angles of the order of m / E."""
    angle = ELECTRON_MASS / (parents.energy + ELECTRON_MASS) * rng.exponential(size=len(parents))
    return deflected(parents.direction, np.cos(np.minimum(angle, np.pi)), rng)


def _hits_nucleus(now, length, rng):
    """Draw whether hadrons interact in one step, with the interaction lengths of PDG-A."""
    rate = np.select([now.kind == PION, now.kind == PROTON], [1 / argon.PION_LENGTH, 1 / argon.NUCLEAR_LENGTH], 0.0)
    return rng.random(len(now)) < rate * length


def _segments(particles, end, energy, length):
    return Segments(particles.position, end, energy, length, particles.time, particles.fragment)
