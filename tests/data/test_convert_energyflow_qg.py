"""data/convert_energyflow_qg.py on small files in the public layout."""

from pathlib import Path

import convert_energyflow_qg as convert
import h5py
import numpy as np
import pytest

from puffin.errors import InputError

IDS = [22, 211, -211, 321, -321, 130, 2112, -2112, 2212, -2212, 11, -11, 13, -13]


def write_source(path, number, width, seed):
    """Write a file of the published layout, compressed.

    X (number, width, 4) float64: pT, y, phi and PDG code, by descending pT, zero-padded; y (number,): labels."""
    rng = np.random.default_rng(seed)
    x = np.zeros((number, width, 4))
    for jet in x:
        n = rng.integers(1, width + 1)
        jet[:n] = np.column_stack(
            [np.sort(rng.uniform(0.1, 100, n))[::-1], rng.normal(size=n), rng.uniform(0, 6.3, n), rng.choice(IDS, n)]
        )
    y = rng.integers(0, 2, number).astype(np.float64)
    np.savez_compressed(path, X=x, y=y)
    return x, y


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Two files of 7 and 5 jets with 14 and 17 columns of particles, read in blocks of 3: (paths, [(X, y), ...])."""
    monkeypatch.setattr(convert, "BLOCK", 3)
    paths = [tmp_path / "QG_jets.npz", tmp_path / "QG_jets_1.npz"]
    return paths, [write_source(paths[0], 7, 14, 1), write_source(paths[1], 5, 17, 2)]


def test_round_trip(sources, tmp_path):
    """pT, rapidity, azimuth and PDG code must come back from the momenta.

    Breaks if the rapidity is read as the pseudorapidity, a mass is wrong or missing, codes belong to other particles,
    or quark and gluon are swapped."""
    paths, contents = sources
    out = tmp_path / "qg.h5"
    convert.main([*map(str, paths), "--out", str(out)])
    with h5py.File(out) as file:
        momenta, pdgid, lengths, label = (file[key][:] for key in ("Pmu", "pdgid", "Nobj", "is_signal"))
        assert file["pdgid"].dtype == np.int32 and momenta.shape == (12, 17, 4) and momenta.dtype == np.float32
    assert label.tolist() == [*contents[0][1], *contents[1][1]]
    for k, x in enumerate([*contents[0][0], *contents[1][0]]):
        x = x[x[:, 0] > 0]
        e, px, py, pz = momenta[k, : lengths[k]].astype(np.float64).T
        assert lengths[k] == len(x) and not momenta[k, lengths[k] :].any() and not pdgid[k, lengths[k] :].any()
        np.testing.assert_array_equal(pdgid[k, : len(x)], x[:, 3])
        np.testing.assert_allclose(np.hypot(px, py), x[:, 0], rtol=1e-6)
        np.testing.assert_allclose(np.arctanh(pz / e), x[:, 1], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.exp(1j * np.arctan2(py, px)), np.exp(1j * x[:, 2]), atol=1e-6)


def test_masses():
    """Breaks if one of the 14 masses [MeV] of the table belongs to another particle. The particles have rapidity 0."""
    x = np.array([[[0.001, 0, 0, code] for code in IDS]])
    momenta, pdgid = convert.fourmomenta(x, False, "", 0)
    mass = 1000 * np.sqrt(momenta[0, :, 0] ** 2 - (momenta[0, :, 1:] ** 2).sum(-1))
    pion, kaon, neutron, proton, electron, muon = 139.570, 493.68, 939.565, 938.272, 0.511, 105.658
    hadrons = [pion, pion, kaon, kaon, 497.61, neutron, neutron, proton, proton]
    expected = [0, *hadrons, electron, electron, muon, muon]
    np.testing.assert_allclose(mass, expected, atol=4e-3)
    assert pdgid[0].tolist() == IDS
    momenta, _ = convert.fourmomenta(x, True, "", 0)
    np.testing.assert_allclose(momenta[0, :, 0], 0.001, rtol=1e-12)


def test_split(sources, tmp_path):
    """Breaks if a jet is lost or doubled, fractions are wrong, the seed has no effect, or labels are mixed up."""
    paths, contents = sources

    def run(name, *options):
        convert.main([*map(str, paths), "--out", str(tmp_path / name), "--split", "0.5", "0.25", "0.25", *options])
        parts = []
        for split in ("train", "valid", "test"):
            with h5py.File(tmp_path / f"{Path(name).stem}_{split}.h5") as file:
                parts.append(
                    [(float(p), int(s)) for p, s in zip(file["Pmu"][:, 0, 1], file["is_signal"][:], strict=False)]
                )
        return parts

    convert.main([*map(str, paths), "--out", str(tmp_path / "whole.h5")])
    with h5py.File(tmp_path / "whole.h5") as file:
        whole = [(float(p), int(s)) for p, s in zip(file["Pmu"][:, 0, 1], file["is_signal"][:], strict=False)]
    first = run("a.h5", "--seed", "5")
    assert [len(part) for part in first] == [6, 3, 3] and sorted(sum(first, [])) == sorted(whole)
    assert first == run("b.h5", "--seed", "5") != run("c.h5", "--seed", "6")


def test_bad_sources_are_refused(sources, tmp_path):
    """Breaks if an unknown particle gets no mass or that of another one, or a negative pT or an empty file passes.

    Also if labels other than 0 and 1, or fractions that do not add up to 1, pass."""
    (path, _), ((x, y), _) = sources
    out = ["--out", str(tmp_path / "o.h5")]
    unknown, negative = x.copy(), x.copy()
    unknown[4, 0, 3] = 111
    negative[5, 0, 0] *= -1
    for arrays, message in (
        ({"X": unknown, "y": y}, "jet 4: PDG code 111 is none of"),
        ({"X": negative, "y": y}, "jet 5: expected pT >= 0, got -"),
        ({"X": x[:0], "y": y[:0]}, "it would contain no jets"),
        ({"X": x, "y": y + 1}, "expected y of 0 and 1"),
        ({"X": x, "y": y[1:]}, r"expected X \(n, M, 4\)"),
        ({"X": x}, "array 'y' not found"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=message):
            convert.main([str(path), *out])
    with pytest.raises(InputError, match="three fractions with sum 1"):
        convert.main([str(path), *out, "--split", "0.5", "0.5", "0.5"])
    assert not list(tmp_path.glob("*.h5"))


def test_all_splits_or_none(sources, tmp_path):
    """Breaks if some splits are written although another one has no jets, or if a fraction of 0 writes a file.

    A split can have no jets because there are too few, or because they have no particles. The next attempt would then
    find existing files."""
    (path, _), ((x, y), _) = sources
    command = [str(path), "--out", str(tmp_path / "o.h5"), "--split"]
    part = convert.assign(7, [0.5, 0.25, 0.25], 0)
    for k, name in enumerate(convert.SPLITS):
        np.savez(path, X=np.where((part == k)[:, None, None], 0, x), y=y)
        with pytest.raises(InputError, match=f"o_{name}.h5: not written.*[1-9] without particles"):
            convert.main([*command, "0.5", "0.25", "0.25"])
    np.savez(path, X=x[:2], y=y[:2])
    with pytest.raises(InputError, match="it would contain no jets"):
        convert.main([*command, "0.8", "0.1", "0.1"])
    assert not list(tmp_path.glob("*.h5"))
    convert.main([*command, "0.5", "0", "0.5"])
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == ["o_test.h5", "o_train.h5"]
