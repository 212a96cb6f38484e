"""data/convert_jetclass.py on small ROOT files in the public layout; skipped without uproot and awkward."""

import subprocess
import sys
from pathlib import Path

import convert_jetclass as convert
import h5py
import numpy as np
import pytest

from puffin.errors import InputError
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

LABELS = [f"label_{name}" for name in ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")]
FLAGS = ["charge", "isChargedHadron", "isNeutralHadron", "isPhoton", "isElectron", "isMuon"]
TRACK = ["d0val", "d0err", "dzval", "dzerr"]


@pytest.fixture
def reader():
    pytest.importorskip("uproot")
    pytest.importorskip("awkward")


def write_source(path, number, seed, leave_out=()):
    """Write a file with the branches of JetClass; return a list of {branch without part_: (n,)} and the classes."""
    import awkward
    import uproot

    rng = np.random.default_rng(seed)
    jets = []
    for _ in range(number):
        n = rng.integers(1, 8)
        p = rng.normal(size=(n, 3)) * 20
        p = p[np.argsort(-np.hypot(p[:, 0], p[:, 1]))]
        jet = {"px": p[:, 0], "py": p[:, 1], "pz": p[:, 2], "energy": np.linalg.norm(p, axis=1) + 0.1}
        jet |= {name: rng.integers(-1, 2, n) for name in FLAGS} | {name: rng.normal(size=n) for name in TRACK}
        jet |= {"deta": rng.normal(size=n)}
        jets.append({name: values.astype(np.float32) for name, values in jet.items()})
    classes = rng.integers(0, 10, number)
    branches = {f"part_{name}": awkward.Array([jet[name] for jet in jets]) for name in jets[0]}
    branches |= {name: (classes == k).astype(np.float32 if k == 0 else np.int32) for k, name in enumerate(LABELS)}
    branches |= {"jet_pt": rng.normal(size=number).astype(np.float32)}
    branches = {name: values for name, values in branches.items() if name not in leave_out}
    with uproot.recreate(path) as file:
        file.mktree(
            "tree",
            {name: values.type if name.startswith("part_") else values.dtype for name, values in branches.items()},
        )
        for half in (slice(0, number // 2), slice(number // 2, None)):  # two baskets
            file["tree"].extend({name: values[half] for name, values in branches.items()})
    return jets, classes


@pytest.mark.parametrize("nobj", [None, 3])
def test_round_trip(reader, tmp_path, monkeypatch, nobj):
    """Convert in blocks of 4, which do not end where baskets or files end.

    Breaks if branches are mixed, the dropped particles are not the softest, padding is not zero, or jets of a later
    block or file are misplaced."""
    monkeypatch.setattr(convert, "BLOCK", 4)
    paths = [tmp_path / "a.root", tmp_path / "b.root"]
    first, second = (write_source(path, n, n) for path, n in zip(paths, (11, 6), strict=False))
    out = tmp_path / "train.h5"
    convert.main([*map(str, paths), "--out", str(out), *([] if nobj is None else ["--nobj", str(nobj)])])
    jets, classes = [*first[0], *second[0]], [*first[1], *second[1]]
    width = nobj or 128
    with h5py.File(out) as file:
        content = {key: file[key][:] for key in file}
    assert set(content) == {"Pmu", "Nobj", "signal_type", "jet_tag", *FLAGS, *TRACK}
    assert content["jet_tag"].tolist() == classes and content["signal_type"].dtype == np.uint8
    np.testing.assert_array_equal(content["signal_type"], np.eye(10)[classes])
    assert content["Nobj"].tolist() == [min(width, len(jet["px"])) for jet in jets]
    columns = {
        "energy": content["Pmu"][..., 0],
        "px": content["Pmu"][..., 1],
        "py": content["Pmu"][..., 2],
        "pz": content["Pmu"][..., 3],
    }
    for name, values in (columns | {name: content[name] for name in (*FLAGS, *TRACK)}).items():
        assert values.shape == (17, width) and values.dtype == np.float32
        for row, jet in zip(values, jets, strict=False):
            n = min(width, len(jet[name]))
            np.testing.assert_array_equal(row[:n], jet[name][:n], err_msg=name)
            assert not row[n:].any()


def test_bad_sources_are_refused(reader, tmp_path):
    """Breaks if a missing branch or another kind of file shows as a traceback, or leaves a partial output."""
    write_source(tmp_path / "a.root", 3, 1, leave_out=("part_d0err", "label_Tbl"))
    (tmp_path / "text.root").write_text("no")
    for name, message in (
        ("a.root", "tree has no branch part_d0err, label_Tbl"),
        ("text.root", "not a readable ROOT file"),
    ):
        with pytest.raises(InputError, match=message):
            convert.main([str(tmp_path / name), "--out", str(tmp_path / "o.h5")])
    assert not list(tmp_path.glob("*.h5"))


def test_damaged_baskets_are_one_line(reader, tmp_path):
    """A download that was cut or garbled in the middle: the header and the list of branches are intact. Breaks if the
    error of the codec shows without the name of the file."""
    write_source(tmp_path / "a.root", 400, 1)
    data = bytearray((tmp_path / "a.root").read_bytes())
    for start in range(2000, 60000, 50):
        data[start : start + 20] = bytes(20)
    (tmp_path / "a.root").write_bytes(data)
    with pytest.raises(InputError, match=r"a.root: (cannot read jets from 0|not a readable ROOT file) \("):
        convert.main([str(tmp_path / "a.root"), "--out", str(tmp_path / "o.h5")])
    assert not list(tmp_path.glob("*.h5"))


def test_any_error_of_a_basket_names_the_file(tmp_path):
    """uproot raises zlib.error, ValueError and others; a stand-in for it raises one after the first block."""

    class Tree:
        def iterate(self, branches, step_size, library):
            yield [0] * 7
            raise ZeroDivisionError("bad basket")

    blocks = convert.blocks_of(Tree(), tmp_path / "a.root")
    assert len(next(blocks)) == 7
    with pytest.raises(InputError, match=r"a.root: cannot read jets from 7 \(ZeroDivisionError: bad basket\)"):
        next(blocks)


def test_missing_reader_is_one_line(tmp_path):
    """Breaks if the absence of uproot shows as a traceback, ends with status 0, or does not name the remedy."""
    (tmp_path / "uproot.py").write_text("raise ImportError('No module named uproot')")
    (tmp_path / "a.root").touch()
    result = subprocess.run(
        [sys.executable, str(ROOT / "data" / "convert_jetclass.py"), str(tmp_path / "a.root"), "--out", "o.h5"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "'.[convert]'" in result.stderr
