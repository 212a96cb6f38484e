"""Energy loss and scattering of particles in liquid argon.

Sources: PDG, Review of Particle Physics, sections "Passage of particles through matter" (PDG-P below) and "Atomic and
nuclear properties of materials" (PDG-A). Density effect: Sternheimer, Berger, Seltzer, At. Data Nucl. Data Tables 30
(1984).
"""

import numpy as np

K = 0.307075  # MeV cm^2 / mol, 4 pi N_A r_e^2 m_e c^2
ELECTRON_MASS = 0.51099895
DENSITY = 1.396  # g / cm^3, PDG-A
Z, A = 18, 39.948
EXCITATION = 188e-6  # MeV, mean excitation energy
X0 = 19.55 / DENSITY  # cm, radiation length (14.0 cm), PDG-A
NUCLEAR_LENGTH = 119.7 / DENSITY  # cm, nuclear interaction length of protons, PDG-A
PION_LENGTH = 149.0 / DENSITY  # cm, nuclear interaction length of pions, PDG-A
LIGHT = 29.9792458  # cm / ns

# kinds of particles; the numbers are the PID of PILArNet-M
PHOTON, ELECTRON, MUON, PION, PROTON = range(5)
MASS = np.array([0.0, ELECTRON_MASS, 105.6583755, 139.57039, 938.27208816])
PI0_MASS = 134.9768

_COLLISIONS = K / 2 * Z / A * DENSITY  # MeV / cm; Landau's xi of a length x is this times x / beta^2


def beta_gamma(kind, energy):
    """Compute beta and gamma from the kinetic energy."""
    gamma = 1 + energy / MASS[kind]
    return np.sqrt(1 - gamma**-2), gamma


def momentum(kind, energy):
    """Compute |p| c [MeV] from the kinetic energy."""
    return np.sqrt(energy * (energy + 2 * MASS[kind]))


def density_effect(beta, gamma):
    """Compute Sternheimer's delta for liquid argon, a non-conductor: zero below x0."""
    x0, x1, c, a, k = 0.2, 3.0, 5.2146, 0.19559, 3.0
    x = np.log10(beta * gamma)
    delta = 2 * np.log(10) * x - c + a * np.maximum(x1 - x, 0) ** k
    return np.where(x < x0, 0.0, delta)


def largest_transfer(kind, energy):
    """Compute the maximum energy [MeV] that a collision can transfer to an electron at rest (PDG-P)."""
    _, gamma = beta_gamma(kind, energy)
    ratio = ELECTRON_MASS / MASS[kind]
    return 2 * ELECTRON_MASS * (gamma**2 - 1) / (1 + 2 * gamma * ratio + ratio**2)


def stopping_power(kind, energy):
    """Compute the mean collision energy loss [MeV/cm]: Bethe's formula, and its form for electrons (PDG-P)."""
    beta, gamma = beta_gamma(kind, energy)
    delta = density_effect(beta, gamma)
    scale = (beta * gamma) ** 2 * ELECTRON_MASS / EXCITATION
    heavy = np.log(2 * scale * largest_transfer(kind, energy) / EXCITATION) - 2 * beta**2 - delta
    light = (
        np.log(scale * ELECTRON_MASS * (gamma - 1) / (2 * EXCITATION))
        + gamma**-2
        - (2 * gamma - 1) / gamma**2 * np.log(2)
        + ((gamma - 1) / gamma) ** 2 / 8
        - delta
    )
    return _COLLISIONS / beta**2 * np.where(kind == ELECTRON, light, heavy)


class CollisionTable:
    """Interpolate stopping_power on a logarithmic grid of energies; the formula takes as long as a whole step."""

    LOWEST, HIGHEST, POINTS = 0.01, 1e5, 2000

    def __init__(self):
        grid = np.geomspace(self.LOWEST, self.HIGHEST, self.POINTS)
        # Bethe's formula holds for beta > 0.05; below, where a particle has almost stopped, its value there is used
        floor = {kind: 0.00125 * MASS[kind] for kind in (MUON, PION, PROTON)} | {ELECTRON: self.LOWEST}
        self.values = np.ones((len(MASS), self.POINTS))
        for kind, lowest in floor.items():
            self.values[kind] = stopping_power(kind, np.maximum(grid, lowest))

    def __call__(self, kind, energy):
        position = np.log(energy / self.LOWEST) * ((self.POINTS - 1) / np.log(self.HIGHEST / self.LOWEST))
        position = np.clip(position, 0, self.POINTS - 1.001)
        low = position.astype(np.intp)
        fraction = position - low
        return (1 - fraction) * self.values[kind, low] + fraction * self.values[kind, low + 1]


def xi(beta, length):
    """Compute Landau's xi [MeV]: in `length` cm there are xi / T collisions above T on average, for small T (PDG-P)."""
    return _COLLISIONS * length / beta**2


def scattering_angle(kind, energy, length):
    """Compute Highland's width of the angle in one plane [rad] after `length` cm (PDG-P).

    The logarithm is evaluated at 10 cm, a typical track, so the angles of many short steps add up to that of a long
    one."""
    beta, _ = beta_gamma(kind, energy)
    return 13.6 / (beta * momentum(kind, energy)) * np.sqrt(length / X0) * (1 + 0.038 * np.log(10 / X0))


def electrons_collected(energy, length):
    """Compute the ionization electrons that survive recombination, for `energy` MeV along `length` cm: Birks' law.

    W = 23.6 eV; constants at 0.5 kV/cm: Amoruso et al. (ICARUS), NIM A 523 (2004)."""
    loss = energy / np.maximum(length, 1e-4)
    return energy / 23.6e-6 * 0.8 / (1 + 0.0486 * loss / (DENSITY * 0.5))
