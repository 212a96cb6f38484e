"""Photons: pair production, Compton scattering, photoelectric absorption.

PDG-P: the section "Passage of particles through matter" of the PDG review.
"""

from functools import lru_cache

import numpy as np

from lartpc.argon import DENSITY, ELECTRON, ELECTRON_MASS, LIGHT, PHOTON, X0, A, Z
from lartpc.particles import Particles, turned
from lartpc.tracks import inside

SOFTEST = 0.01  # MeV; photons below are absorbed where they are
CLASSICAL_RADIUS = 2.8179403e-13  # cm
ELECTRON_DENSITY = 6.02214e23 * Z / A * DENSITY  # per cm^3


def compton(energy):
    """Compton scatterings per cm: Klein and Nishina's total cross section."""
    a = energy / ELECTRON_MASS
    b = 1 + 2 * a
    shape = (1 + a) / a**2 * (2 * (1 + a) / b - np.log(b) / a) + np.log(b) / (2 * a) - (1 + 3 * a) / b**2
    return 2 * np.pi * CLASSICAL_RADIUS**2 * ELECTRON_DENSITY * shape


def photoelectric(energy):
    """Photoelectric absorptions per cm: a power law through the NIST XCOM values of argon at 50 and 100 keV."""
    return 0.053 * DENSITY * (0.1 / energy) ** 3.1


def pair_shape(energy, share):
    """dN/d(share) of pairs, unnormalized; share: that of the photon's energy which goes to the electron.

    Bethe and Heitler's formula with the screening functions of Butcher and Messel, Nucl. Phys. 20 (1960) 15."""
    split = np.maximum(share * (1 - share), 1e-12)
    screening = 136 * Z ** (-1 / 3) * ELECTRON_MASS / energy / split
    far = 21.12 - 4.184 * np.log(screening + 0.952)
    first = np.where(screening <= 1, 20.867 - 3.242 * screening + 0.625 * screening**2, far)
    second = np.where(screening <= 1, 20.209 - 1.930 * screening - 0.086 * screening**2, far)
    nucleus = 4 / 3 * np.log(Z)
    value = (1 - 2 * split) * (first - nucleus) + 2 / 3 * split * (second - nucleus)
    lowest = ELECTRON_MASS / energy
    return np.where((share >= lowest) & (share <= 1 - lowest), np.maximum(value, 0), 0)


@lru_cache(maxsize=1)
def _pair_table():
    energies = np.geomspace(2 * ELECTRON_MASS, 1e5, 300)
    share = (np.arange(2000) + 0.5) / 2000
    shape = pair_shape(energies[:, None], share)
    return np.log(energies), shape.mean(1) / shape[-1].mean(), 1.02 * shape.max(1)


def pairs(energy):
    """Pair productions per cm: 7 / (9 X0) at high energies (PDG-P), and towards the threshold as pair_shape's integral."""
    energies, total, _ = _pair_table()
    return 7 / (9 * X0) * np.interp(np.log(energy), energies, total, left=0)


def compton_energy(energy, rng):
    """Energies [MeV] of photons after Compton scattering, and the cosines of their angles: Klein and Nishina's formula.

    By rejection: r = E'/E is drawn from 1/r, its angle follows, and is kept with probability 1 - sin^2 r / (1 + r^2)."""
    after, cosine = np.empty_like(energy), np.empty_like(energy)
    open_ = np.arange(len(energy))
    while len(open_):
        a = energy[open_] / ELECTRON_MASS
        lowest = 1 / (1 + 2 * a)
        # g(r) = 1/r + r, drawn as a mixture of its two terms
        first = rng.random(len(a)) * (-np.log(lowest) + (1 - lowest**2) / 2) < -np.log(lowest)
        u = rng.random(len(a))
        r = np.where(first, lowest ** (1 - u), np.sqrt(lowest**2 + u * (1 - lowest**2)))
        t = (1 - r) / (a * r)  # 1 - cos
        keep = rng.random(len(a)) < 1 - r * t * (2 - t) / (1 + r**2)
        after[open_[keep]], cosine[open_[keep]] = (r * energy[open_])[keep], 1 - t[keep]
        open_ = open_[~keep]
    return after, cosine


def pair_split(energy, rng):
    """Share of the energy of each photon that its electron takes, (N,), from pair_shape by rejection."""
    share = np.full(len(energy), 0.5)
    open_ = np.flatnonzero(energy > 2.2 * ELECTRON_MASS)
    energies, _, peaks = _pair_table()
    highest = np.interp(np.log(energy), energies, peaks)
    while len(open_):
        trial = rng.random(len(open_))
        keep = rng.random(len(open_)) * highest[open_] < pair_shape(energy[open_], trial)
        share[open_[keep]] = trial[keep]
        open_ = open_[~keep]
    return share


def fly(photons, rng):
    """Follow photons to their end: (electrons and positrons, one number for each conversion, MeV that left the detector).

    The electrons still carry the fragment of the photon's parent; the two of a pair have the same conversion number."""
    born, conversion, count, escaped, now = [photons[:0]], [np.zeros(0, int)], 0, 0.0, photons
    while len(now):
        rates = np.stack([pairs(now.energy), compton(now.energy), photoelectric(now.energy)])
        total = rates.sum(0)
        length = np.where(now.energy > SOFTEST, rng.exponential(size=len(now)) / total, 0)
        now = Particles(
            now.kind,
            now.charge,
            now.position + length[:, None] * now.direction,
            now.direction,
            now.energy,
            now.time + length / LIGHT,
            now.fragment,
        )
        within = inside(now.position)
        escaped += float(now.energy[~within].sum())
        draw = rng.random(len(now)) * total
        pair = within & (draw < rates[0]) & (now.energy > SOFTEST)
        scatter = within & ~pair & (draw < rates[0] + rates[1]) & (now.energy > SOFTEST)

        produced, scattered = _pair(now[pair], rng), now[scatter]
        after, cosine = compton_energy(scattered.energy, rng)
        direction = turned(scattered.direction, cosine, rng)
        push = scattered.energy[:, None] * scattered.direction - after[:, None] * direction
        recoil = push / np.maximum(np.linalg.norm(push, axis=1, keepdims=True), 1e-12)
        compton_electrons = Particles.at(scattered, ELECTRON, -1, recoil, scattered.energy - after)
        absorbed = now[within & ~pair & ~scatter]
        photoelectrons = Particles.at(absorbed, ELECTRON, -1, absorbed.direction, absorbed.energy)

        singles = Particles.join([compton_electrons, photoelectrons])
        pairs_here = int(pair.sum())
        born += [produced, singles]
        conversion.append(count + np.tile(np.arange(pairs_here), 2))
        conversion.append(count + pairs_here + np.arange(len(singles)))
        count += pairs_here + len(singles)
        now = Particles.at(scattered, PHOTON, 0, direction, after)
    return Particles.join(born), np.concatenate(conversion), escaped


def _pair(photons, rng):
    """Electron, then positron, of each pair, at angles of the order of m / E."""
    share = pair_split(photons.energy, rng)
    born = []
    for charge, part in ((-1, share), (1, 1 - share)):
        angle = ELECTRON_MASS / photons.energy * rng.exponential(size=len(photons))
        energy = np.maximum(part * photons.energy - ELECTRON_MASS, 1e-3)
        born.append(Particles.at(photons, ELECTRON, charge, turned(photons.direction, np.cos(angle), rng), energy))
    return Particles.join(born)
