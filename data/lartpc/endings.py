"""What particles become when they stop or hit a nucleus: decays, annihilation, a coarse picture of pion and proton interactions.

The shares of hadronic final states are rough: they make the right kinds of vertices, not cross sections.
"""

import numpy as np

from lartpc.argon import ELECTRON, ELECTRON_MASS, MASS, MUON, PI0_MASS, PION, PROTON
from lartpc.particles import MICHEL, TRACK, Particles, isotropic, photons, turned

MICHEL_ENDPOINT = (MASS[MUON] ** 2 + ELECTRON_MASS**2) / (2 * MASS[MUON])  # MeV, total energy
MUON_LIFETIME = 2197.0  # ns
CAPTURED = 0.76  # share of stopped mu- that an argon nucleus takes (lifetime there: 537 ns)
PION_DECAY_MUON = 4.12  # MeV, kinetic, of pi+ -> mu+ at rest
SEPARATION = 16.0  # MeV that it costs to free a nucleon
BLIPS = 4.0  # photons of a few MeV, on average, from an excited nucleus and the neutrons it sent out


def michel_energy(number, rng):
    """Kinetic energies [MeV] of electrons from muon decay at rest: dN/dx = 2 x^2 (3 - 2 x), x = E / endpoint (PDG, muon decay)."""
    # 6 x^2 - 4 x^3 = 2/3 of 3 x^2, which is Beta(3, 1), and 1/3 of 12 x^2 (1 - x), which is Beta(3, 2)
    x = np.where(rng.random(number) < 2 / 3, rng.beta(3, 1, number), rng.beta(3, 2, number))
    return np.maximum(x * MICHEL_ENDPOINT - ELECTRON_MASS, 1e-3)


def end_at_rest(stopped, fragments, rng):
    """(new charged particles, new photons, fragments) from particles that stopped."""
    plus = stopped.charge > 0
    positrons = stopped[(stopped.kind == ELECTRON) & plus]
    first = isotropic(len(positrons), rng)
    light = [photons(positrons, sign * first, np.full(len(positrons), ELECTRON_MASS)) for sign in (1, -1)]

    muons = stopped[stopped.kind == MUON]
    free = (muons.charge > 0) | (rng.random(len(muons)) > CAPTURED)
    light.append(_blips(muons[~free], rng))
    decaying = muons[free]
    michels = Particles.at(
        decaying, ELECTRON, decaying.charge, isotropic(len(decaying), rng), michel_energy(len(decaying), rng)
    )
    michels.time += rng.exponential(MUON_LIFETIME, len(michels))
    fragments = fragments.begin(michels, MICHEL)

    pions = stopped[(stopped.kind == PION) & plus]
    daughters = Particles.at(pions, MUON, 1, isotropic(len(pions), rng), np.full(len(pions), PION_DECAY_MUON))
    daughters.time += rng.exponential(26.0, len(daughters))  # pi+ lifetime, ns
    fragments = fragments.begin(daughters, TRACK)

    absorbed, gammas, fragments = _absorption(stopped[(stopped.kind == PION) & ~plus], fragments, rng)
    return Particles.join([michels, daughters, absorbed]), Particles.join([*light, gammas]), fragments


def end_in_flight(interacted, fragments, rng):
    """(new charged particles, new photons, fragments) from hadrons that hit a nucleus.

    Pions: 30% absorbed, 15% exchange their charge, the rest scatter with a part of their energy; protons scatter."""
    pion = interacted.kind == PION
    fate = np.where(pion, rng.random(len(interacted)), 1)
    absorbed, gammas, fragments = _absorption(interacted[fate < 0.30], fragments, rng)
    exchanged = interacted[(fate >= 0.30) & (fate < 0.45)]
    light = [gammas, *_neutral_pions(exchanged, rng)]

    rest = interacted[fate >= 0.45]
    part = rng.uniform(0.3, 1.0, len(rest))
    out = Particles.at(
        rest,
        rest.kind,
        rest.charge,
        turned(rest.direction, rng.uniform(-0.2, 1, len(rest)), rng),
        np.maximum(part * rest.energy, 1e-3),
    )
    spare = (1 - part) * rest.energy - SEPARATION
    struck = rest[spare > 0]
    protons = Particles.at(
        struck,
        PROTON,
        1,
        turned(struck.direction, rng.uniform(-0.2, 1, len(struck)), rng),
        spare[spare > 0] * rng.uniform(0.3, 1.0, len(struck)),
    )
    protons = protons[rng.random(len(protons)) < 0.45]  # the others knock out neutrons, which are not followed
    new = Particles.join([out, protons])
    fragments = fragments.begin(new, TRACK)
    light.append(_blips(rest, rng))
    return Particles.join([absorbed, new]), Particles.join(light), fragments


def _absorption(pions, fragments, rng):
    """Pions vanish in a nucleus: protons share a random part of their energy and mass, neutrons the rest."""
    number = rng.poisson(1.3, len(pions))
    parents = pions[np.repeat(np.arange(len(pions)), number)]
    available = np.maximum(parents.energy + MASS[PION] - 3 * SEPARATION, 0)
    energy = available * rng.beta(1, 2.5, len(parents)) / np.maximum(np.repeat(number, number), 2) * 2
    protons = Particles.at(parents, PROTON, 1, isotropic(len(parents), rng), energy + 1e-3)
    return protons, _blips(pions, rng), fragments.begin(protons, TRACK)


def _neutral_pions(parents, rng):
    """Two photons from each pi0 that takes the kinetic energy of its parent."""
    total = parents.energy + PI0_MASS
    boost = np.sqrt(1 - (PI0_MASS / total) ** 2)
    flight = turned(parents.direction, rng.uniform(-0.2, 1, len(parents)), rng)
    cosine = rng.uniform(-1, 1, len(parents))  # of the first photon in the pi0's rest frame
    side = turned(flight, np.zeros(len(parents)), rng) * np.sqrt(1 - cosine**2)[:, None] * PI0_MASS / 2
    out = []
    for sign in (1, -1):
        along = total / PI0_MASS * (PI0_MASS / 2) * (sign * cosine + boost)
        momentum = sign * side + along[:, None] * flight
        energy = np.linalg.norm(momentum, axis=1)
        out.append(photons(parents, momentum / energy[:, None], energy))
    return out


def _blips(parents, rng):
    """Photons of an excited nucleus and of neutron captures nearby."""
    who = np.repeat(np.arange(len(parents)), rng.poisson(BLIPS, len(parents)))
    born = photons(parents[who], isotropic(len(who), rng), 0.5 + rng.exponential(1.5, len(who)))
    born.position += isotropic(len(who), rng) * rng.exponential(15.0, (len(who), 1))  # cm, the neutrons' way
    return born
