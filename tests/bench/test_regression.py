"""bench/regression.py: estimates that need no training."""

import numpy as np

from bench.regression import best_pair, kt_subjets


def massless(*directions):
    """Return rows (E, px, py, pz) of massless particles near +x; directions: (energy, y, z) with slopes y and z."""
    rows = []
    for energy, y, z in directions:
        n = np.array([1, y, z]) / np.sqrt(1 + y * y + z * z)
        rows.append([energy, *(energy * n)])
    return np.array(rows)


def test_subjets_are_the_three_bunches():
    """Nearby particles are merged in any order, and the total momentum is conserved."""
    bunches = [(100, 0, 0), (5, 0.02, 0), (60, 0.5, 0), (3, 0.5, 0.02), (40, 0, 0.6), (2, 0.01, 0.6)]
    p = massless(*bunches)[[0, 2, 4, 1, 3, 5]]
    subjets = kt_subjets(p, 3)
    assert np.allclose(subjets.sum(0), p.sum(0)) and sorted(subjets[:, 0].round()) == [42, 63, 105]


def test_the_pair_with_the_mass_of_a_w():
    """m^2 = 2 E1 E2 (1 - cos): two of the three particles have a mass of 80.4 GeV."""
    opening = 2 * np.arcsin(80.4 / (2 * np.sqrt(200 * 150)))
    p = massless((200, 0, 0), (150, np.tan(opening), 0), (120, 0, -0.2))
    assert np.allclose(best_pair(p), p[0] + p[1])
    assert np.allclose(best_pair(p[:1]), p[0])
