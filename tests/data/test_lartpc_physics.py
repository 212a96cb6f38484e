"""The Monte Carlo of data/lartpc against formulas and tables that it does not use."""

import numpy as np
import pytest
from lartpc import argon, endings, events, showers, tracks
from lartpc.argon import DENSITY, ELECTRON, ELECTRON_MASS, MUON, PHOTON, PION, PROTON, X0
from lartpc.particles import MICHEL, Fragments, Particles, deflected, isotropic
from scipy import integrate

TABLE = argon.CollisionTable()


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def beam(kind, energy, number, charge=-1, position=None):
    """`number` particles along x from a point, by default the middle of the wall x = 0."""

    def full(value):
        return np.full(number, value)

    start = np.array([0, tracks.EDGE / 2, tracks.EDGE / 2] if position is None else position, float)
    return Particles(
        full(kind),
        full(charge),
        np.tile(start, (number, 1)),
        np.tile([1.0, 0, 0], (number, 1)),
        full(float(energy)),
        np.zeros(number),
        np.arange(number),
    )


# ---- energy loss


def test_minimum_ionization():
    """2.105 MeV/cm at the minimum, at beta gamma near 3.5 (PDG tables for liquid argon).

    Breaks on a wrong constant of Bethe's formula."""
    energy = np.geomspace(50, 5000, 400)
    loss = argon.stopping_power(MUON, energy)
    assert loss.min() == pytest.approx(1.508 * DENSITY, rel=0.005)
    _, gamma = argon.beta_gamma(MUON, energy[loss.argmin()])
    assert 3 < np.sqrt(gamma**2 - 1) < 4


@pytest.mark.parametrize("energy, loss", [(10, 5.687), (30, 2.731), (100, 1.670), (400, 1.526), (1000, 1.645)])
def test_muon_stopping_power(energy, loss):
    """MeV cm^2/g of Groom, Mokhov, Striganov (2001) for liquid argon. Breaks if the density effect or Tmax is wrong."""
    assert argon.stopping_power(MUON, energy) / DENSITY == pytest.approx(loss, rel=0.015)


def test_critical_energy():
    """Rossi's: electrons lose their energy to collisions in one radiation length at 32.8 MeV (PDG tables)."""
    assert argon.stopping_power(ELECTRON, 32.84) * X0 == pytest.approx(32.84, rel=0.04)


def test_table_equals_formula():
    """Breaks if the interpolation mixes kinds or its grid is too coarse."""
    energy = np.geomspace(3, 3000, 57)
    for kind in (ELECTRON, MUON, PION, PROTON):
        assert np.allclose(TABLE(np.full(57, kind), energy), argon.stopping_power(kind, energy), rtol=1e-4)


@pytest.mark.parametrize(
    "kind, energy, grams",
    [
        (MUON, 40, 10.58),
        (MUON, 100, 42.50),
        (MUON, 200, 106.3),
        (MUON, 300, 172.5),  # Groom et al. 2001
        (PROTON, 50, 3.35),
        (PROTON, 100, 10.9),
        (PROTON, 200, 36.5),  # NIST PSTAR, argon
    ],
)
def test_ranges(kind, energy, grams, rng, monkeypatch):
    """Mean path of stepped particles against CSDA tables.

    Breaks if energy is lost or counted twice between soft and hard collisions, or if the last steps are cut short."""
    monkeypatch.setattr(tracks, "_hits_nucleus", lambda now, length, rng: np.zeros(len(now), bool))
    out = tracks.transport(beam(kind, energy, 60), TABLE, rng)
    path = np.bincount(out.segments.fragment, out.segments.length, 60).mean() * DENSITY
    assert len(out.stopped) == 60
    assert path == pytest.approx(grams, rel=0.03)


def test_straggling_is_landau(rng):
    """Most probable loss (PDG, Landau-Vavilov-Bichsel) and width at half maximum (4.02 xi) of 1 GeV muons in 3 mm.

    Breaks if the hard collisions do not follow 1/T^2 or are cut off."""
    number, kind, energy, length = 400_000, MUON, 1000.0, 0.3
    kinds, energies, lengths = (np.full(number, v) for v in (kind, energy, length))
    who, given = tracks.hard_collisions(kinds, energies, lengths, rng)
    lost = tracks.soft_collisions(kinds, energies, lengths, TABLE(kinds, energies), rng) + np.bincount(
        who, given, number
    )
    beta, gamma = argon.beta_gamma(kind, energy)
    xi = argon.xi(beta, length)
    scale = 2 * ELECTRON_MASS * (beta * gamma) ** 2 / argon.EXCITATION
    probable = xi * (np.log(scale) + np.log(xi / argon.EXCITATION) + 0.2 - beta**2 - argon.density_effect(beta, gamma))
    heights, edges = np.histogram(lost, bins=np.arange(0, 1.5, 0.1 * xi))
    centres = (edges[1:] + edges[:-1]) / 2
    smooth = np.convolve(heights, np.ones(5) / 5, "same")
    high = centres[smooth > smooth.max() / 2]
    assert centres[smooth.argmax()] == pytest.approx(probable, rel=0.04)
    assert high[-1] - high[0] == pytest.approx(4.02 * xi, rel=0.08)
    assert lost.mean() == pytest.approx(argon.stopping_power(kind, energy) * length, rel=0.02)


def test_knock_on_spectrum(rng):
    """Numbers above 1 and above 4 MeV, against the integral of the formula.

    Breaks if the rejection or the inverse is wrong."""
    number, energy = 200_000, 1000.0
    arrays = (np.full(number, v) for v in (MUON, energy, 1.0))
    _, given = tracks.hard_collisions(*arrays, rng)
    beta, _ = argon.beta_gamma(MUON, energy)
    top = float(argon.largest_transfer(MUON, energy))
    for threshold in (1, 4):
        expected = argon.xi(beta, 1.0) * integrate.quad(lambda t: (1 - beta**2 * t / top) / t**2, threshold, top)[0]
        assert (given > threshold).sum() / number == pytest.approx(expected, rel=0.03)
    assert given.max() <= top


def test_highland_angle(rng):
    """Width of the projected angle after 10 cm against Highland's formula for that thickness.

    Breaks if the step angles do not add up, or space angles are taken for projected ones."""
    particles, length = beam(MUON, 3000, 4000), 0.0
    while length < 9.999:
        particles = tracks._moved(particles, np.full(4000, 0.25), particles.energy, rng)
        length += 0.25
    beta, _ = argon.beta_gamma(MUON, 3000)
    scaled = 10 / X0
    expected = 13.6 / (beta * argon.momentum(MUON, 3000)) * np.sqrt(scaled) * (1 + 0.038 * np.log(scaled / beta**2))
    for axis in (1, 2):
        assert particles.direction[:, axis].std() == pytest.approx(expected, rel=0.04)


def test_deflected_keeps_the_polar_angle(rng):
    """Breaks if the two vectors across are not orthonormal, for directions near the poles too."""
    direction = np.concatenate([isotropic(500, rng), [[0, 0, 1.0], [0, 0, -1.0], [1e-9, 0, -1.0]]])
    cosine = rng.uniform(-1, 1, len(direction))
    new = deflected(direction, cosine, rng)
    assert np.allclose((new * direction).sum(1), cosine, atol=1e-8) and np.allclose(np.linalg.norm(new, axis=1), 1)


# ---- photons, showers


def test_conversion_length():
    """9/7 X0 at high energies (PDG), no conversion below twice the electron mass, rising probability in between.

    Breaks if the screening or the threshold is wrong (test_photon_attenuation checks 10 MeV)."""
    assert 1 / showers.pairs(5e4) == pytest.approx(9 / 7 * X0, rel=0.02)
    assert showers.pairs(1.0) == 0 and (np.diff(showers.pairs(np.geomspace(2, 5e4, 50))) > 0).all()


@pytest.mark.parametrize("energy, attenuation", [(0.1, 0.204), (0.5, 0.0786), (1.0, 0.0573), (10.0, 0.0273)])
def test_photon_attenuation(energy, attenuation):
    """cm^2/g of NIST XCOM for argon.

    Breaks if a process is missing; coherent scattering is not in ours, 7% at 0.1 MeV."""
    total = showers.pairs(energy) + showers.compton(energy) + showers.photoelectric(energy)
    assert total / DENSITY == pytest.approx(attenuation, rel=0.1)


def test_compton_follows_klein_and_nishina(rng):
    """Mean energy and kinematics at 2 MeV. Breaks if the rejection is wrong."""
    energy = np.full(100_000, 2.0)
    after, cosine = showers.compton_energy(energy, rng)
    a = 2.0 / ELECTRON_MASS
    assert np.allclose(after, 2.0 / (1 + a * (1 - cosine)))

    def density(c):
        return (r := 1 / (1 + a * (1 - c))) ** 2 * (r + 1 / r - (1 - c * c))

    mean = integrate.quad(lambda c: density(c) / (1 + a * (1 - c)), -1, 1)[0] / integrate.quad(density, -1, 1)[0]
    assert after.mean() / 2.0 == pytest.approx(mean, rel=0.01)


def test_every_pair_has_a_possible_split():
    """Breaks if photons make pairs at an energy where no fraction is possible: drawing one would never end."""
    energy = np.geomspace(2 * ELECTRON_MASS, 5, 4000)[:, None]
    possible = showers.pair_shape(energy, np.linspace(0, 1, 1001)).any(1)
    assert possible[showers.pairs(energy[:, 0]) > 0].all() and not possible.all()


def test_pair_split_follows_its_shape(rng):
    """Breaks if the rejection's bound is too low (edges cut off) or a fraction leaves [m/E, 1 - m/E]."""
    for energy in (3.0, 1000.0):
        share = showers.pair_split(np.full(40_000, energy), rng)
        x = (np.arange(4000) + 0.5) / 4000
        shape = showers.pair_shape(energy, x)
        for power in (2, 4):
            assert (np.abs(share - 0.5) ** power).mean() == pytest.approx(
                np.average(np.abs(x - 0.5) ** power, weights=shape), rel=0.03
            )


@pytest.mark.parametrize("kind", [ELECTRON, PHOTON])
def test_shower_energy_is_conserved(kind, rng):
    """Deposited + escaped energy = initial energy.

    The exception is the rest mass of pair electrons that leave the detector (below 1%). Breaks if a secondary is lost,
    doubled, or its energy is not subtracted."""
    number, energy = 30, 300.0
    start = beam(kind, energy, number, 0 if kind == PHOTON else -1, [tracks.EDGE / 3] + 2 * [tracks.EDGE / 2])
    zeros = np.zeros(number, int)
    segments, _, escaped = events.cascade(start, Fragments.of_primaries(start, zeros, zeros), TABLE, rng)
    assert segments.energy.min() >= 0
    assert segments.energy.sum() + escaped == pytest.approx(number * energy, rel=0.005)
    assert segments.energy.sum() > 0.9 * number * energy


def test_radiation_length_of_electrons(rng):
    """Apart from collisions, electrons keep 1/e of their energy after X0.

    So the energy that 1 GeV electrons radiate over a short distance is that distance / X0. Breaks if the spectrum is
    not normalized to X0."""
    number, length = 100_000, 0.1
    _, k = tracks.bremsstrahlung(np.full(number, 1000.0), np.full(number, length), rng)
    assert k.sum() / number / 1000 == pytest.approx(length / X0, rel=0.03)


# ---- endings


def test_michel_spectrum(rng):
    """Endpoint 52.8 MeV and mean 7/10 of it. Breaks with another Michel parameter rho (3/4)."""
    energy = endings.michel_energy(200_000, rng) + ELECTRON_MASS
    assert 52.7 < energy.max() < 52.831
    assert energy.mean() == pytest.approx(0.7 * 52.83, rel=0.005)
    x = energy / endings.MICHEL_ENDPOINT
    assert (x < 0.5).mean() == pytest.approx(2 * 0.5**3 - 0.5**4, rel=0.03)


def test_stopped_muons(rng):
    """mu+ always decay, mu- rarely, after 2.2 us on average. Breaks if the charges are mixed up."""
    for charge, expected in ((1, 1.0), (-1, 1 - endings.CAPTURED)):
        stopped = beam(MUON, 0.5, 5000, charge)
        zeros = np.zeros(5000, int)
        new, _, fragments = endings.end_at_rest(stopped, Fragments.of_primaries(stopped, zeros, zeros), rng)
        assert len(new) / 5000 == pytest.approx(expected, abs=0.03)
        assert (new.kind == ELECTRON).all() and (fragments.semantic[new.fragment] == MICHEL).all()
        assert new.time.mean() == pytest.approx(2197, rel=0.1)


def test_neutral_pions_have_their_mass(rng):
    """Breaks if the boost of the two photons is wrong."""
    first, second = endings._neutral_pions(beam(PION, 200, 1000), rng)
    momentum = first.direction * first.energy[:, None] + second.direction * second.energy[:, None]
    mass = np.sqrt((first.energy + second.energy) ** 2 - (momentum**2).sum(1))
    assert np.allclose(mass, argon.PI0_MASS) and np.allclose(first.energy + second.energy, 200 + argon.PI0_MASS)


def test_hadron_interaction_length(rng):
    """Fraction of 400 MeV protons that interact within their first 20 cm.

    Breaks if lengths are in g/cm^2 or per voxel."""
    out = tracks.transport(beam(PROTON, 400, 3000), TABLE, rng)
    near = (out.interacted.position[:, 0] < 20).sum() / 3000
    assert near == pytest.approx(1 - np.exp(-20 / argon.NUCLEAR_LENGTH), rel=0.12)
