"""Transport of photons: pair production, Compton scattering, photoelectric absorption.

PDG-P: the section "Passage of particles through matter" of the PDG review.
"""

from functools import lru_cache

import numpy as np

from lartpc.argon import DENSITY, ELECTRON, ELECTRON_MASS, LIGHT, PHOTON, X0, A, Z
from lartpc.particles import Particles, deflected
from lartpc.tracks import inside

SOFTEST = 0.01  # MeV; photons below are absorbed at once
CLASSICAL_RADIUS = 2.8179403e-13  # cm
ELECTRON_DENSITY = 6.02214e23 * Z / A * DENSITY  # per cm^3
# MeV; photons below make no pairs: pair_shape is 0 for every fraction, even for equal halves, which are screened least
SOFTEST_PAIR = 4 * 136 * Z ** (-1 / 3) * ELECTRON_MASS / (np.exp((21.12 - 4 / 3 * np.log(Z)) / 4.184) - 0.952)


def compton(energy):
    """Compute the Compton scatterings per cm: Klein and Nishina's total cross section."""
    a = energy / ELECTRON_MASS
    b = 1 + 2 * a
    shape = (1 + a) / a**2 * (2 * (1 + a) / b - np.log(b) / a) + np.log(b) / (2 * a) - (1 + 3 * a) / b**2
    return 2 * np.pi * CLASSICAL_RADIUS**2 * ELECTRON_DENSITY * shape


def photoelectric(energy):
    """Compute the photoelectric absorptions per cm: a power law through NIST XCOM's values at 50 and 100 keV."""
    return 0.053 * DENSITY * (0.1 / energy) ** 3.1


def pair_shape(energy, fraction):
    """Compute dN/d(fraction) of pairs, unnormalized; fraction of the photon's energy that goes to the electron.

    Bethe and Heitler's formula with the screening functions of Butcher and Messel, Nucl. Phys. 20 (1960) 15."""
    split = np.maximum(fraction * (1 - fraction), 1e-12)
    screening = 136 * Z ** (-1 / 3) * ELECTRON_MASS / energy / split
    far = 21.12 - 4.184 * np.log(screening + 0.952)
    first = np.where(screening <= 1, 20.867 - 3.242 * screening + 0.625 * screening**2, far)
    second = np.where(screening <= 1, 20.209 - 1.930 * screening - 0.086 * screening**2, far)
    nucleus = 4 / 3 * np.log(Z)
    value = (1 - 2 * split) * (first - nucleus) + 2 / 3 * split * (second - nucleus)
    lowest = ELECTRON_MASS / energy
    return np.where((fraction >= lowest) & (fraction <= 1 - lowest), np.maximum(value, 0), 0)


@lru_cache(maxsize=1)
def _pair_table():
    """Tabulate pairs: log energies (300,), integrals of pair_shape, and upper limits of it."""
    energies = np.geomspace(2 * ELECTRON_MASS, 1e5, 300)
    fraction = (np.arange(2000) + 0.5) / 2000
    shape = pair_shape(energies[:, None], fraction)
    return np.log(energies), shape.mean(1) / shape[-1].mean(), 1.02 * shape.max(1)


def pairs(energy):
    """Compute the pair productions per cm: 7 / (9 X0) at high energies (PDG-P), scaled with pair_shape's integral."""
    energies, total, _ = _pair_table()
    rate = 7 / (9 * X0) * np.interp(np.log(energy), energies, total, left=0)
    return np.where(energy > SOFTEST_PAIR, rate, 0)  # also between the energies of the table around it


def compton_energy(energy, rng):
    """Draw energies [MeV] of photons after Compton scattering and cosines of their angles: Klein and Nishina's formula.

    By rejection: r = E'/E is drawn from 1/r + r, and is accepted with probability 1 - sin^2 r / (1 + r^2), where the
    angle follows from r."""
    after, cosine = np.empty_like(energy), np.empty_like(energy)
    remaining = np.arange(len(energy))
    while len(remaining):
        a = energy[remaining] / ELECTRON_MASS
        lowest = 1 / (1 + 2 * a)
        # g(r) = 1/r + r, drawn as a mixture of its two terms
        first = rng.random(len(a)) * (-np.log(lowest) + (1 - lowest**2) / 2) < -np.log(lowest)
        u = rng.random(len(a))
        r = np.where(first, lowest ** (1 - u), np.sqrt(lowest**2 + u * (1 - lowest**2)))
        t = (1 - r) / (a * r)  # 1 - cos
        keep = rng.random(len(a)) < 1 - r * t * (2 - t) / (1 + r**2)
        after[remaining[keep]], cosine[remaining[keep]] = (r * energy[remaining])[keep], 1 - t[keep]
        remaining = remaining[~keep]
    return after, cosine


def pair_split(energy, rng):
    """Draw the fraction of the energy of each photon that its electron takes, (N,), from pair_shape by rejection."""
    fraction = np.full(len(energy), 0.5)
    remaining = np.flatnonzero(energy > 2.2 * ELECTRON_MASS)
    energies, _, peaks = _pair_table()
    highest = np.interp(np.log(energy), energies, peaks)
    while len(remaining):
        trial = rng.random(len(remaining))
        keep = rng.random(len(remaining)) * highest[remaining] < pair_shape(energy[remaining], trial)
        fraction[remaining[keep]] = trial[keep]
        remaining = remaining[~keep]
    return fraction


def fly(photons, rng):
    """Transport photons until all are absorbed or left the detector.

    Returns (electrons and positrons, the number of the conversion that each comes from, MeV that left the detector).
    The electrons have the fragment of the photon's parent; the two particles of a pair have the same conversion
    number."""
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
        direction = deflected(scattered.direction, cosine, rng)
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
    """Make the electrons, then the positrons, of pairs, at angles of the order of m / E."""
    fraction = pair_split(photons.energy, rng)
    born = []
    for charge, share in ((-1, fraction), (1, 1 - fraction)):
        angle = ELECTRON_MASS / photons.energy * rng.exponential(size=len(photons))
        energy = np.maximum(share * photons.energy - ELECTRON_MASS, 1e-3)
        born.append(Particles.at(photons, ELECTRON, charge, deflected(photons.direction, np.cos(angle), rng), energy))
    return Particles.join(born)
