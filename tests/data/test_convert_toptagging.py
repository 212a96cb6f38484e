"""data/convert_toptagging.py on small files in the public layouts."""

import subprocess
import sys
from pathlib import Path

import convert_toptagging
import h5py
import numpy as np
import pytest

from puffin.data.jets import JetDataset, JetSelection
from puffin.errors import InputError
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


def jets(number, width, seed=0):
    """Make (number, width, 4) float32 massless momenta by descending pT, of 1 to width particles each, zero-padded."""
    rng = np.random.default_rng(seed)
    momenta = np.zeros((number, width, 4), np.float32)
    for jet in momenta:
        n = rng.integers(1, width + 1)
        p = rng.normal(size=(n, 3)) * 50
        p = p[np.argsort(-np.hypot(p[:, 0], p[:, 1]))]
        jet[:n] = np.column_stack([np.linalg.norm(p, axis=1), p])
    return momenta


def write_table(path, momenta, truth, integers):
    """Write a file in the layout of pandas' to_hdf(format="table").

    It is one compound table, and the names of its columns are pickled attributes."""
    floats = np.concatenate([momenta.reshape(len(momenta), -1), truth], 1).astype(np.float32)
    kind = [
        ("index", "<i8"),
        ("values_block_0", "<f4", floats.shape[1:]),
        ("values_block_1", "<i8", integers.shape[1:]),
    ]
    table = np.zeros(len(momenta), kind)
    table["index"], table["values_block_0"], table["values_block_1"] = np.arange(len(momenta)), floats, integers
    with h5py.File(path, "w") as file:
        data = file.create_dataset("table/table", data=table, chunks=(40,), maxshape=(None,))
        data.attrs["values_block_0_kind"] = np.bytes_(b"(lp0\ncos\nsystem\n")  # must not be unpickled


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """Make a table of 9 jets, read in blocks of 4. Jet 5 has no particle. (path, momenta, truth, ttv and is_signal)."""
    monkeypatch.setattr(convert_toptagging, "BLOCK", 4)
    momenta, truth = jets(9, 200), jets(9, 1, seed=1)[:, 0]
    momenta[5] = 0
    integers = np.column_stack([np.full(9, 2), np.arange(9) % 2])
    write_table(tmp_path / "source.h5", momenta, truth, integers)
    return tmp_path / "source.h5", momenta, truth, integers


def test_table_round_trip(reference, tmp_path, capsys):
    """Breaks if columns are read in another order, or jet 5 is dropped without a message.

    Also if a true momentum or a label belongs to another jet."""
    path, momenta, truth, integers = reference
    out = tmp_path / "train.h5"
    convert_toptagging.main([str(path), str(path), "--out", str(out)])
    assert "16 jets (2 without particles dropped)" in capsys.readouterr().out
    kept = [*range(5), *range(6, 9)] * 2
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["Pmu"][:], momenta[kept])
        assert file["Nobj"][:].tolist() == [int((momenta[k, :, 0] > 0).sum()) for k in kept]
        np.testing.assert_array_equal(file["truth_Pmu"][:], truth[kept])
        assert file["is_signal"][:].tolist() == [k % 2 for k in kept] and file["ttv"][:].tolist() == [2] * 16
    batch = JetDataset([out], JetSelection()).__getitems__([5])
    np.testing.assert_array_equal(batch.fourmomenta.numpy(), momenta[6][momenta[6, :, 0] > 0])


def test_table_without_ttv(reference, tmp_path):
    """Breaks if the last integer is not read as is_signal_new, or --nobj does not drop the softest particles."""
    path, momenta, truth, integers = reference
    write_table(path, momenta, truth, integers[:, 1:])
    convert_toptagging.main([str(path), "--out", str(tmp_path / "o.h5"), "--nobj", "3"])
    with h5py.File(tmp_path / "o.h5") as file:
        assert "ttv" not in file and file["is_signal"][:3].tolist() == [0, 1, 0] and file["Nobj"][:].max() == 3
        np.testing.assert_array_equal(file["Pmu"][:5], momenta[:5, :3])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda m, t, i: (np.roll(m, -1, 2), t, i), "they look like px,py,pz,E. Write the columns E, px, py, pz"),
        (lambda m, t, i: (m, t * [1, 1, 1, -9], i), "true momentum of jet 0, particle 0: E = .* is less than"),
        (lambda m, t, i: (m, t, i[:, ::-1]), "is_signal_new"),
        (lambda m, t, i: (m[:, :100], t, i), "804 floats"),
        (lambda m, t, i: (m, t, np.repeat(i, 2, 1)), "1 or 2 integers"),
    ],
    ids=["E last", "impossible top", "integers swapped", "fewer particles", "more integers"],
)
def test_other_tables_are_refused(reference, tmp_path, damage, message):
    """Breaks if a table with other columns, or columns in another order, is converted, or a partial file remains."""
    path, *content = reference
    write_table(path, *damage(*content))
    with pytest.raises(InputError, match=message):
        convert_toptagging.main([str(path), "--out", str(tmp_path / "new" / "o.h5")])
    assert not list(tmp_path.glob("new/*"))


def test_other_hdf5_is_refused(tmp_path):
    """Breaks if a pandas file of the "fixed" layout, or no HDF5 at all, shows as a traceback."""
    with h5py.File(tmp_path / "fixed.h5", "w") as file:
        file["table/block0_values"] = np.zeros((3, 804))
    (tmp_path / "text.h5").write_text("no")
    for name, message in (("fixed.h5", "format=.fixed."), ("text.h5", "not a readable HDF5")):
        with pytest.raises(InputError, match=message):
            convert_toptagging.main([str(tmp_path / name), "--out", str(tmp_path / "o.h5")])


@pytest.mark.parametrize(
    "labels, options",
    [
        (np.array([1, 0, 0, 1, 0]), []),
        (np.array([[1.0], [0], [0], [1], [0]]), []),
        (np.eye(2)[[1, 0, 0, 1, 0]], []),
        (np.eye(2)[[0, 1, 1, 0, 1]], ["--signal-column", "0"]),
    ],
    ids=["numbers", "column", "one-hot", "one-hot, signal first"],
)
def test_npz_round_trip(tmp_path, monkeypatch, labels, options):
    """Breaks if splits are mixed, a split of the name "val" is not found, or labels are read incorrectly."""
    monkeypatch.setattr(convert_toptagging, "BLOCK", 2)
    train, valid = jets(5, 20, 1), jets(3, 20, 2)
    np.savez(
        tmp_path / "full.npz",
        kinematics_train=train.astype(np.float64),
        labels_train=labels,
        kinematics_val=valid,
        labels_val=np.ones(3),
    )
    convert_toptagging.main([str(tmp_path / "full.npz"), "--out", str(tmp_path / "top.h5"), *options])
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == ["top_train.h5", "top_valid.h5"]
    with h5py.File(tmp_path / "top_train.h5") as file:
        np.testing.assert_array_equal(file["Pmu"][:], train)
        assert file["is_signal"][:].tolist() == [1, 0, 0, 1, 0]
    with h5py.File(tmp_path / "top_valid.h5") as file:
        np.testing.assert_array_equal(file["Pmu"][:], valid)
    with pytest.raises(InputError, match="top_train.h5: already exists. Choose another --out or pass --overwrite"):
        convert_toptagging.main([str(tmp_path / "full.npz"), "--out", str(tmp_path / "top.h5")])


def test_npz_with_other_arrays_is_refused(tmp_path):
    """Breaks if missing kinematics, or labels with other values or another length, pass."""
    momenta = jets(4, 5)
    for arrays, message in (
        ({"x": momenta}, "expected kinematics_train"),
        ({"kinematics_test": momenta}, "array 'labels_test' not found"),
        ({"kinematics_test": momenta, "labels_test": np.array([0, 1, 2, 0])}, "labels"),
        ({"kinematics_test": momenta, "labels_test": np.ones(3)}, "N labels"),
        ({"kinematics_test": momenta[0], "labels_test": np.ones(5)}, r"expected \(N, M, 4\)"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(InputError, match=message):
            convert_toptagging.main([str(tmp_path / "a.npz"), "--out", str(tmp_path / "o.h5")])
        assert not list(tmp_path.glob("*.h5"))


def test_command_line(reference, tmp_path):
    """Breaks if the script does not run from another folder, or a failure has several lines or status 0."""
    path = reference[0]

    def run(*words):
        command = [sys.executable, str(ROOT / "data" / "convert_toptagging.py"), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)

    assert run(path, "--out", "o.h5").returncode == 0 and (tmp_path / "o.h5").exists()
    again = run(path, "--out", "o.h5")
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "--overwrite" in again.stderr
    assert run(path, "--out", "o.h5", "--overwrite", "--nobj", "2").returncode == 0
    with h5py.File(tmp_path / "o.h5") as file:
        assert file["Pmu"].shape == (8, 2, 4)


@pytest.mark.parametrize("key, layout, text", [("table", "fixed", 'format="fixed"'), ("jets", "table", "another name")])
def test_other_tables_of_pandas(tmp_path, key, layout, text):
    """What to_hdf writes by default, and a table under another key, as h5py sees them. Breaks if the message does not
    give the command that repairs the file."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if layout == "fixed":
            file[f"{key}/axis0"], file[f"{key}/block0_values"] = np.arange(3), np.zeros((3, 4))
        else:
            file[f"{key}/table"] = np.zeros(3, [("values_block_0", "f4", (804,)), ("values_block_1", "i8", (2,))])
    with pytest.raises(InputError) as error:
        convert_toptagging.main([str(tmp_path / "a.h5"), "--out", str(tmp_path / "o.h5")])
    assert f"a.h5: the pandas table '{key}'" in str(error.value) and text in str(error.value)
    assert f"'{key}').to_hdf('a_table.h5', key='table', format='table')" in str(error.value)
