"""The ends of particles that stop or hit a nucleus: decays, annihilation, pion and proton interactions.

The fractions of hadronic final states are rough estimates. They produce the right kinds of vertices, but are not
cross sections.
"""

import numpy as np

from lartpc.argon import ELECTRON, ELECTRON_MASS, MASS, MUON, PI0_MASS, PION, PROTON
from lartpc.particles import MICHEL, TRACK, Particles, deflected, isotropic, photons

MICHEL_ENDPOINT = (MASS[MUON] ** 2 + ELECTRON_MASS**2) / (2 * MASS[MUON])  # MeV, total energy
MUON_LIFETIME = 2197.0  # ns
CAPTURED = 0.76  # fraction of stopped mu- that an argon nucleus captures (lifetime there: 537 ns)
PION_DECAY_MUON = 4.12  # MeV, kinetic, of pi+ -> mu+ at rest
SEPARATION = 16.0  # MeV, energy to remove a nucleon from a nucleus
BLIPS = 4.0  # mean number of photons of a few MeV from an excited nucleus and the neutrons that it emits


def michel_energy(number, rng):
    """Draw kinetic energies [MeV] of electrons from muon decay at rest.

    dN/dx = 2 x^2 (3 - 2 x), x = E / endpoint (PDG, muon decay)."""
    # 6 x^2 - 4 x^3 = 2/3 of 3 x^2, which is Beta(3, 1), and 1/3 of 12 x^2 (1 - x), which is Beta(3, 2)
    x = np.where(rng.random(number) < 2 / 3, rng.beta(3, 1, number), rng.beta(3, 2, number))
    return np.maximum(x * MICHEL_ENDPOINT - ELECTRON_MASS, 1e-3)


def end_at_rest(stopped, fragments, rng):
    """End particles that stopped: (new charged particles, new photons, fragments)."""
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
    """End hadrons that hit a nucleus: (new charged particles, new photons, fragments).

    Of the pions 30% are absorbed, 15% exchange their charge, and the others scatter and keep a fraction of their
    energy; protons scatter."""
    pion = interacted.kind == PION
    fate = np.where(pion, rng.random(len(interacted)), 1)
    absorbed, gammas, fragments = _absorption(interacted[fate < 0.30], fragments, rng)
    exchanged = interacted[(fate >= 0.30) & (fate < 0.45)]
    light = [gammas, *_neutral_pions(exchanged, rng)]

    rest = interacted[fate >= 0.45]
    fraction = rng.uniform(0.3, 1.0, len(rest))  # of the energy
    out = Particles.at(
        rest,
        rest.kind,
        rest.charge,
        deflected(rest.direction, rng.uniform(-0.2, 1, len(rest)), rng),
        np.maximum(fraction * rest.energy, 1e-3),
    )
    available = (1 - fraction) * rest.energy - SEPARATION
    struck = rest[available > 0]
    protons = Particles.at(
        struck,
        PROTON,
        1,
        deflected(struck.direction, rng.uniform(-0.2, 1, len(struck)), rng),
        available[available > 0] * rng.uniform(0.3, 1.0, len(struck)),
    )
    protons = protons[rng.random(len(protons)) < 0.45]  # the others knock out neutrons, which are not simulated
    new = Particles.join([out, protons])
    fragments = fragments.begin(new, TRACK)
    light.append(_blips(rest, rng))
    return Particles.join([absorbed, new]), Particles.join(light), fragments


def _absorption(pions, fragments, rng):
    """Absorb pions in a nucleus: protons share a random fraction of their energy and mass, neutrons the rest."""
    number = rng.poisson(1.3, len(pions))
    parents = pions[np.repeat(np.arange(len(pions)), number)]
    available = np.maximum(parents.energy + MASS[PION] - 3 * SEPARATION, 0)
    energy = available * rng.beta(1, 2.5, len(parents)) / np.maximum(np.repeat(number, number), 2) * 2
    protons = Particles.at(parents, PROTON, 1, isotropic(len(parents), rng), energy + 1e-3)
    return protons, _blips(pions, rng), fragments.begin(protons, TRACK)


def _neutral_pions(parents, rng):
    """Make the two photons of a pi0 with the kinetic energy of each parent."""
    total = parents.energy + PI0_MASS
    boost = np.sqrt(1 - (PI0_MASS / total) ** 2)
    flight = deflected(parents.direction, rng.uniform(-0.2, 1, len(parents)), rng)
    cosine = rng.uniform(-1, 1, len(parents))  # of the first photon in the pi0's rest frame
    side = deflected(flight, np.zeros(len(parents)), rng) * np.sqrt(1 - cosine**2)[:, None] * PI0_MASS / 2
    out = []
    for sign in (1, -1):
        along = total / PI0_MASS * (PI0_MASS / 2) * (sign * cosine + boost)
        momentum = sign * side + along[:, None] * flight
        energy = np.linalg.norm(momentum, axis=1)
        out.append(photons(parents, momentum / energy[:, None], energy))
    return out


def _blips(parents, rng):
    """Make the photons of an excited nucleus and of neutron captures nearby."""
    parent = np.repeat(np.arange(len(parents)), rng.poisson(BLIPS, len(parents)))
    blips = photons(parents[parent], isotropic(len(parent), rng), 0.5 + rng.exponential(1.5, len(parent)))
    blips.position += isotropic(len(parent), rng) * rng.exponential(
        15.0, (len(parent), 1)
    )  # cm, flight of the neutrons
    return blips
