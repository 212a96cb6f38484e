"""data/convert_hls4ml.py on small files in the public layout."""

import convert_hls4ml as convert
import h5py
import numpy as np
import pytest

from puffin.errors import InputError

# as published: one name more than there are columns
PARTICLE = (
    "j1_px j1_py j1_pz j1_e j1_erel j1_pt j1_ptrel j1_eta j1_etarel j1_etarot "
    "j1_phi j1_phirel j1_phirot j1_deltaR j1_costheta j1_costhetarel j1_pdgid"
).split()
JET = [*(f"j_feature{k}" for k in range(53)), "j_g", "j_q", "j_w", "j_z", "j_t", "j_undef"]


def write_source(path, number, width, seed, particle=PARTICLE, jet=JET):
    """Write jetConstituentList (number, width, 16), jets (number, 59) and the names of their columns.

    Returns momenta and classes."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(size=(number, width)) for name in particle[:16]}
    momenta = np.zeros((number, width, 4))
    for k in range(number):
        n = rng.integers(1, width + 1)
        p = rng.normal(size=(n, 3)) * 20
        p = p[np.argsort(-np.hypot(p[:, 0], p[:, 1]))]
        momenta[k, :n] = np.column_stack([np.linalg.norm(p, axis=1), p])
    for c, name in enumerate(("j1_e", "j1_px", "j1_py", "j1_pz")):
        columns[name] = momenta[..., c]
    classes = rng.integers(0, 5, number)
    jets = rng.normal(size=(number, len(jet)))
    jets[:, -1] = 0
    for c, name in enumerate(("j_g", "j_q", "j_w", "j_z", "j_t")):
        if name in jet:
            jets[:, jet.index(name)] = classes == c
    with h5py.File(path, "w") as file:
        file["jetConstituentList"] = np.stack([columns[name] for name in particle[:16]], -1)
        file["particleFeatureNames"] = np.array(particle, "S")
        file["jets"], file["jetFeatureNames"] = jets, np.array(jet, "S")
    return momenta, classes


def test_round_trip(tmp_path, monkeypatch):
    """Convert two files, one of which has its columns in another order.

    Breaks if columns are found by position instead of name, classes get other numbers, or the files' jets are mixed."""
    monkeypatch.setattr(convert, "BLOCK", 4)
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    first = write_source(paths[0], 9, 12, 1)
    second = write_source(
        paths[1], 6, 15, 2, [*PARTICLE[15::-1], "j1_pdgid"], [*JET[53:58][::-1], *JET[:53], "j_undef"]
    )
    out = tmp_path / "train.h5"
    convert.main([*map(str, paths), "--out", str(out)])
    expected = np.concatenate([np.pad(first[0], ((0, 0), (0, 3), (0, 0))), second[0]]).astype(np.float32)
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["Pmu"][:], expected)
        assert file["Nobj"][:].tolist() == (expected[..., 0] > 0).sum(1).tolist()
        tags = [*first[1], *second[1]]
        assert file["jet_tag"][:].tolist() == tags
        np.testing.assert_array_equal(file["signal_type"][:], np.eye(5)[tags])
        assert list(file.attrs["classes"]) == ["g", "q", "W", "Z", "top"]


def test_bad_sources_are_refused(tmp_path):
    """Breaks if a missing table or column shows as a traceback, or a jet without class passes.

    Also if a name is used that the table has no column for."""
    path, out = tmp_path / "a.h5", ["--out", str(tmp_path / "o.h5")]
    write_source(path, 3, 4, 1)

    def refused(message):
        with pytest.raises(InputError, match=message):
            convert.main([str(path), *out])
        assert not (tmp_path / "o.h5").exists()

    with h5py.File(path, "a") as file:
        place = JET.index("j_g")
        file["jets"][1, place : place + 5] = 0
    refused("jet 1: expected exactly one of j_g, j_q, j_w, j_z, j_t")
    with h5py.File(path, "a") as file:
        names = np.array(PARTICLE, "S")
        names[[3, 16]] = names[[16, 3]]
        file["particleFeatureNames"][:] = names
    refused("jetConstituentList has no column j1_e")
    with h5py.File(path, "a") as file:
        del file["jetFeatureNames"], file["particleFeatureNames"]
        file["particleFeatureNames"] = np.array(PARTICLE, "S")
    refused("key 'jetFeatureNames' not found")
    with h5py.File(path, "a") as file:
        file["jetFeatureNames/names"] = np.array(JET, "S")
    refused("key 'jetFeatureNames' not found or not an array")
    with h5py.File(path, "a") as file:
        del file["jetConstituentList"]
        file["jetConstituentList"] = h5py.ExternalLink("elsewhere.h5", "particles")
    refused("'jetConstituentList' is a link to 'particles' in elsewhere.h5, which cannot be opened")
