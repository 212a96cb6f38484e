"""The observables of jets, against numbers written out."""

import os
from itertools import combinations

import h5py
import numpy as np
import pytest

from puffin.data import jet_observables
from puffin.errors import InputError
from tests.conftest import ROOT

pytest.importorskip("fastjet")


def random_jets(counts, seed=0):
    """Make massless particles (P, 4) of collimated jets."""
    rng = np.random.default_rng(seed)
    pt, eta, phi = (rng.uniform(low, high, sum(counts)) for low, high in ((1, 100), (-0.3, 0.3), (-0.3, 0.3)))
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], 1)


def observed(particles, *counts) -> dict[str, np.ndarray]:
    """Compute the observables of jets by name, each (J,)."""
    found = jet_observables.observables(particles, np.array(counts))
    return dict(zip(jet_observables.NAMES, found.T, strict=True))


def test_masses_and_correlations_of_a_jet():
    """Breaks if e3 counts a triple twice or not at all, the mass is wrong, or N-subjettiness has another norm."""
    particles = random_jets([6])
    found = {name: float(values[0]) for name, values in observed(particles, 6).items()}
    pt, phi = np.hypot(particles[:, 1], particles[:, 2]), np.arctan2(particles[:, 2], particles[:, 1])
    eta, total = np.arcsinh(particles[:, 3] / pt), particles.sum(0)
    z, distance = pt / pt.sum(), np.hypot(eta[:, None] - eta, phi[:, None] - phi)
    e2 = sum(z[i] * z[j] * distance[i, j] for i, j in combinations(range(6), 2))
    e3 = sum(
        np.prod(z[[i, j, k]]) * distance[i, j] * distance[j, k] * distance[i, k]
        for i, j, k in combinations(range(6), 3)
    )
    assert found["mass"] == pytest.approx(np.sqrt(total[0] ** 2 - (total[1:] ** 2).sum()), rel=1e-5)
    assert found["e2_1"] == pytest.approx(e2, rel=1e-5)
    assert found["C2_1"] == pytest.approx(e3 / e2**2, rel=1e-5) and found["D2_1"] == pytest.approx(e3 / e2**3, rel=1e-5)
    assert found["pt_dispersion"] == pytest.approx(np.sqrt((z**2).sum()), rel=1e-5) and found["multiplicity"] == 6
    about_a_particle = [(z * distance[k]).sum() / 0.8 for k in range(6)]  # winner-take-all: the axis is a particle
    assert any(found["tau1_1"] == pytest.approx(value, rel=1e-5) for value in about_a_particle)
    assert found["tau1_1"] > found["tau2_1"] > found["tau3_1"] > found["tau4_1"] > 0


def test_subjets_of_three_prongs():
    """Breaks if the axes are not those of the subjets: three particles are three prongs, and a pair has their mass."""
    particles = random_jets([3], seed=2)
    found = {name: float(values[0]) for name, values in observed(particles, 3).items()}
    assert found["tau3_1"] < 1e-9 < found["tau2_1"] and found["tau32_1"] < 1e-6
    pairs = sorted(
        np.sqrt(p[0] ** 2 - (p[1:] ** 2).sum())
        for p in (particles[i] + particles[j] for i, j in combinations(range(3), 2))
    )
    assert sorted(found[f"mass_of_pair_{k}"] for k in range(3)) == pytest.approx(pairs, rel=1e-4)
    assert found["smallest_pair_mass"] == pytest.approx(pairs[0], rel=1e-4)


def test_observables_do_not_depend_on_order_azimuth_or_other_jets():
    """Breaks if particles are not sorted, padding counts, azimuth is not periodic, or a small jet gives no number."""
    counts = np.array([9, 1, 2, 40])
    particles = random_jets(counts)
    ends = np.cumsum(counts)
    together = observed(particles, *counts)
    angle = 3.0  # moves the jet over the limit of the azimuth
    rotation = np.array([[1, 0, 0, 0], [0, np.cos(angle), -np.sin(angle), 0], [0, np.sin(angle), np.cos(angle), 0]])
    rotation = np.vstack([rotation, [0, 0, 0, 1]])
    for k, count in enumerate(counts):
        jet = particles[ends[k] - count : ends[k]][::-1] @ rotation.T
        alone = observed(jet, count)
        for name, values in together.items():
            assert np.isfinite(values[k])
            if count > 2:
                assert alone[name][0] == pytest.approx(values[k], rel=2e-3, abs=1e-4), name


def test_soft_drop_removes_soft_wide_radiation():
    """Breaks if soft drop is not applied to the whole jet, or keeps what it should drop."""
    pair = np.array([[50, 50 * np.cos(phi), 50 * np.sin(phi), 0] for phi in (0.1, -0.1)])
    wide = np.array([[np.cosh(0.6), 1, 0, np.sinh(0.6)]])  # pT 1 GeV
    found = observed(np.concatenate([pair, wide]), 3)
    assert found["groomed_mass"][0] == pytest.approx(2 * 50 * np.sin(0.1), rel=1e-3)
    assert found["groomed_asymmetry"][0] == pytest.approx(0.5) and found["groomed_angle"][0] == pytest.approx(0.2)
    assert found["groomed_mass"][0] < found["mass"][0]


def test_subjettiness_alone():
    """The same numbers as among all observables, without computing the others."""
    counts = np.array([9, 1, 40])
    particles = random_jets(counts)
    found, all_of_them = jet_observables.subjettiness(particles, counts), observed(particles, *counts)
    assert "tau32_1" in found and "mass" not in found
    for name, values in found.items():
        assert values == pytest.approx(all_of_them[name], rel=1e-5)


def test_observables_are_stored_and_renewed(tmp_path, monkeypatch):
    """Breaks if they are computed again without need, or not computed again after the file has changed."""
    path, calls = tmp_path / "test.h5", []
    with h5py.File(ROOT / "data/sample_data/multiclass/test.h5") as whole, h5py.File(path, "w") as part:
        for key in ("Pmu", "Nobj"):
            part[key] = whole[key][:30]
        part["Pmu"][3], part["Nobj"][3] = 0, 0
    values, mass = jet_observables.observables_of_file(path), jet_observables.NAMES.index("mass")
    assert values.shape == (30, len(jet_observables.NAMES)) and not values[3].any() and values[2, mass] > 1
    of_rows = jet_observables._of_rows
    monkeypatch.setattr(jet_observables, "_of_rows", lambda *a: calls.append(a) or of_rows(*a))
    again = jet_observables.observables_of_file(path)
    assert not calls and np.array_equal(values, again)
    os.utime(path, (1, 1))
    jet_observables.observables_of_file(path)
    assert calls


def test_columns_in_another_order(tmp_path):
    """Breaks if the observables of a file with other columns are those of E, px, py, pz, or are read from its cache."""
    path = tmp_path / "test.h5"
    with h5py.File(ROOT / "data/sample_data/multiclass/test.h5") as whole, h5py.File(path, "w") as part:
        jets, counts = whole["Pmu"][:5], whole["Nobj"][:5]
        part["Pmu"], part["Nobj"] = jets[..., [1, 2, 3, 0]], counts
    expected = jet_observables.observables(jets[jets[..., 0] > 0], counts)
    found = jet_observables.observables_of_file(path, columns=("px", "py", "pz", "E"))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(InputError, match="look like px,py,pz,E"):
        jet_observables.observables_of_file(path)
