"""bench/jets_baseline.py and bench/jet_observables.py: the observables, and runs in the format of a network's."""

import os
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import train_pelican_classifier
from bench import jet_observables, jets_baseline
from puffin.errors import InputError
from puffin.tables import read_records

pytest.importorskip("fastjet")
SAMPLES = Path(__file__).resolve().parents[2] / "data" / "sample_data"


def random_jets(counts, seed=0):
    """Make massless particles (P, 4) of collimated jets."""
    rng = np.random.default_rng(seed)
    pt, eta, phi = (rng.uniform(low, high, sum(counts)) for low, high in ((1, 100), (-0.3, 0.3), (-0.3, 0.3)))
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], 1)


@pytest.fixture
def jets(tmp_path):
    """A folder with 60 training and 30 test jets of five classes, one of them without particles."""
    for split, number in (("train", 60), ("test", 30)):
        with h5py.File(SAMPLES / f"multiclass/{split}.h5") as whole, h5py.File(tmp_path / f"{split}.h5", "w") as part:
            for key in ("Pmu", "Nobj", "jet_tag", "is_signal"):
                part[key] = whole[key][:number]
            part["Pmu"][3], part["Nobj"][3] = 0, 0
    return tmp_path


def test_masses_and_correlations_of_a_jet():
    """Breaks if e3 counts a triple twice or not at all, the mass is wrong, or N-subjettiness has another norm."""
    particles = random_jets([6])
    found = {name: float(values[0]) for name, values in jet_observables.observables(particles, np.array([6])).items()}
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
    found = {name: float(values[0]) for name, values in jet_observables.observables(particles, np.array([3])).items()}
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
    together = jet_observables.observables(particles, counts)
    angle = 3.0  # moves the jet over the limit of the azimuth
    rotation = np.array([[1, 0, 0, 0], [0, np.cos(angle), -np.sin(angle), 0], [0, np.sin(angle), np.cos(angle), 0]])
    rotation = np.vstack([rotation, [0, 0, 0, 1]])
    for k, count in enumerate(counts):
        jet = particles[ends[k] - count : ends[k]][::-1] @ rotation.T
        alone = jet_observables.observables(jet, np.array([count]))
        for name, values in together.items():
            assert np.isfinite(values[k])
            if count > 2:
                assert alone[name][0] == pytest.approx(values[k], rel=2e-3, abs=1e-4), name


def test_soft_drop_removes_soft_wide_radiation():
    """Breaks if soft drop is not applied to the whole jet, or keeps what it should drop."""
    pair = np.array([[50, 50 * np.cos(phi), 50 * np.sin(phi), 0] for phi in (0.1, -0.1)])
    wide = np.array([[np.cosh(0.6), 1, 0, np.sinh(0.6)]])  # pT 1 GeV
    found = jet_observables.observables(np.concatenate([pair, wide]), np.array([3]))
    assert found["groomed_mass"][0] == pytest.approx(2 * 50 * np.sin(0.1), rel=1e-3)
    assert found["groomed_asymmetry"][0] == pytest.approx(0.5) and found["groomed_angle"][0] == pytest.approx(0.2)
    assert found["groomed_mass"][0] < found["mass"][0]


def test_observables_are_stored_and_renewed(jets, monkeypatch):
    """Breaks if they are computed again without need, or not computed again after the file has changed."""
    path, calls = jets / "test.h5", []
    values, names = jet_observables.observables_of_file(path)
    assert values.shape == (30, len(names)) and not values[3].any() and values[2, names.index("mass")] > 1
    of_rows = jet_observables._of_rows
    monkeypatch.setattr(jet_observables, "_of_rows", lambda *a: calls.append(a) or of_rows(*a))
    again, names_again = jet_observables.observables_of_file(path)
    assert not calls and np.array_equal(values, again) and names == names_again
    os.utime(path, (1, 1))
    jet_observables.observables_of_file(path)
    assert calls


@pytest.mark.parametrize("target, classes", [("is_signal", 2), ("jet_tag", 5)])
def test_runs_like_a_network(jets, tmp_path, capsys, target, classes):
    """Breaks if the baseline uses other events than a network, or its predictions or metrics have another layout."""
    places = [
        "--datadir",
        str(jets),
        "--workdir",
        str(tmp_path),
        "--target",
        target,
        "--num-train",
        "40",
        "--seed",
        "3",
    ]
    jets_baseline.main([*places, "--prefix", "b", "--iterations", "5"])
    assert ("b-cut" in capsys.readouterr().out) == (classes == 2)
    network = "--yaml config/3k.yaml --num-epoch 1 --nobj 8 --batch-size 20 --cpu --no-plot --num-classes".split()
    train_pelican_classifier.main([*network, str(classes), *places, "--prefix", "n", "--predict"])
    ours, theirs = (torch.load(tmp_path / f"predict/{p}.best.test.pt", weights_only=True) for p in "bn")
    assert set(ours) == set(theirs)
    for key in ("row", "index", "targets"):
        assert torch.equal(ours[key], theirs[key].to(ours[key].dtype))
    assert ours["predict"].shape == theirs["predict"].shape and ours["predict"].dtype == theirs["predict"].dtype
    assert torch.allclose(ours["predict"].softmax(1).sum(1), torch.ones(30, dtype=torch.double))
    rows = [read_records(tmp_path / f"log/{p}.Best.metrics.csv")[0] for p in "bn"]
    assert set(rows[1]) <= set(rows[0]) and rows[0]["AUC"] != ""


def test_the_cut_keeps_a_window_of_mass():
    """Breaks if jets outside of the window are not background, or the order inside is not that of tau32."""
    sample = object.__new__(jets_baseline.Sample)
    sample.names = ("mass", "tau32_1")
    sample.x = np.array([[170, 0.4], [170, 0.7], [60, 0.1], [400, 0.2]], np.float32)
    scores = jets_baseline._cut_scores(sample, (150, 200))[:, 1]
    assert scores[0] > scores[1] > 0 > scores[2] > scores[3]


def test_bad_input_is_named(jets, tmp_path):
    """Breaks if a missing split, key or class ends with a traceback of another place."""
    with pytest.raises(InputError, match="found: |not found"):
        jets_baseline.main(["--datadir", str(jets), "--workdir", str(tmp_path), "--target", "nothing"])
    with h5py.File(jets / "train.h5", "r+") as file:
        file["is_signal"][:] = 1
    with pytest.raises(InputError, match="all of class 1"):
        jets_baseline.main(["--datadir", str(jets), "--workdir", str(tmp_path)])
    (jets / "test.h5").unlink()
    with pytest.raises(InputError, match="no test file"):
        jets_baseline.main(["--datadir", str(jets), "--workdir", str(tmp_path)])
