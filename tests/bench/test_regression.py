"""bench/regression.py: estimates that need no training."""

import h5py
import numpy as np
import pytest
import torch

from bench.regression import best_pair, kt_subjets, main, read_predictions
from puffin.errors import InputError


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


@pytest.fixture
def jets(tmp_path):
    """A file of 12 jets, the second without a target, and predictions for six of them, as --num-test 6 gives them."""
    rng = np.random.default_rng(0)
    momenta = rng.normal(size=(12, 5, 4)).astype(np.float32)
    momenta[..., 0] = np.linalg.norm(momenta[..., 1:], axis=-1)
    true = momenta.sum(1)
    true[1] = 0
    rows = np.array([0, 3, 4, 7, 8, 11])
    with h5py.File(tmp_path / "test.h5", "w") as file:
        file["Pmu"], file["truth_Pmu"] = momenta, true
    saved = {"row": rows, "targets": true[rows][:, None], "predict": 1.1 * true[rows][:, None]}
    torch.save({key: torch.from_numpy(value) for key, value in saved.items()}, tmp_path / "p.pt")
    return tmp_path, true, rows


def test_predictions_of_a_part_of_the_jets(jets, capsys):
    """All estimates are of the jets that the network has seen. Breaks if the targets are compared row by row."""
    folder, true, rows = jets
    got, network = read_predictions(folder / "p.pt", true, "test.h5")
    assert got.tolist() == rows.tolist() and np.allclose(network, 1.1 * true[rows])
    main(["--testfile", str(folder / "test.h5"), "--predictions", str(folder / "p.pt")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 jets of") and lines[-1].startswith("network")
    row = dict(zip(lines[1].split(), lines[-1].split()[1:], strict=True))
    assert row["pT_response"] == row["m_response"] == "1.1" and float(row["pT_resolution"]) < 1e-6  # the bias is shown
    main(["--testfile", str(folder / "test.h5")])
    assert capsys.readouterr().out.startswith("11 jets of")


def test_predictions_of_another_file(jets):
    """Other targets, or fewer jets; one line each."""
    folder, true, _ = jets
    for other in (true + 1, true[:5]):
        with pytest.raises(InputError, match="its targets differ from test.h5. Choose the matching --testfile"):
            read_predictions(folder / "p.pt", other, "test.h5")
    with pytest.raises(InputError, match=r"no data set 'truth' \(found: Pmu, truth_Pmu\)"):
        main(["--testfile", str(folder / "test.h5"), "--target", "truth"])
