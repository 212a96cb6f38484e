"""Writing jets: whole files, order and padding of particles, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from puffin.data.jet_writer import jet_file, jet_rows, one_hot_numbers
from puffin.errors import InputError
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


def rows_of(*lengths):
    """Make rows of jets with these numbers of particles; the momenta identify the jets."""
    momenta = np.zeros((len(lengths), 3, 4), np.float32)
    for k, n in enumerate(lengths):
        momenta[k, :n] = k + 1
    return {"Nobj": np.array(lengths, np.int32), "Pmu": momenta, "label": np.arange(len(lengths))}


def test_rows_follow_one_another(tmp_path):
    """Breaks if rows of a later call are misplaced, or a jet without particles is written or not counted.

    Also if labels belong to other jets, attributes are missing, or the bytes depend on the time of writing."""
    paths = tmp_path / "a.h5", tmp_path / "new" / "b.h5"
    for path in paths:
        with jet_file(path, {"seed": 12}) as writer:
            writer.append(rows_of(2, 0, 3))
            writer.append(rows_of(0))
            writer.append(rows_of(1))
        assert (writer.jets, writer.empty) == (3, 2)
        time.sleep(1.1 * (path is paths[0]))  # HDF5 would store the time in seconds
    with h5py.File(paths[0]) as file:
        assert (
            file["Nobj"][:].tolist() == [2, 3, 1]
            and file["label"][:].tolist() == [0, 2, 0]
            and file.attrs["seed"] == 12
        )
        assert file["Pmu"][:, 0, 0].tolist() == [1, 3, 1] and file["Pmu"].dtype == np.float32
        assert file["Pmu"].compression == "gzip" and file["Pmu"].shuffle
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_interrupted_file_does_not_exist(tmp_path, failure):
    """Breaks if the file is written in place: the old file must survive and nothing else may be left."""
    path = tmp_path / "train.h5"
    path.write_text("old")
    with pytest.raises(failure), jet_file(path, {}) as writer:
        writer.append(rows_of(2))
        raise failure
    assert [p.name for p in tmp_path.iterdir()] == ["train.h5"] and path.read_text() == "old"


def test_file_without_jets_is_refused(tmp_path):
    """Breaks if a file is written that the reader of jets would refuse."""
    with pytest.raises(InputError, match="2 without particles"), jet_file(tmp_path / "a.h5", {}) as writer:
        writer.append(rows_of(0, 0))
    assert not list(tmp_path.iterdir())


def test_particles_by_descending_pt_with_their_features():
    """Breaks if particles are sorted by energy, cut before sorting, or separated from their features.

    Also if padding in the middle counts as a particle, or the padding of a feature is not zero."""
    momenta = np.array(
        [[[9.0, 1, 0, 8.9], [0, 0, 0, 0], [5, 3, 4, 0], [7, 0, 6, 3.6], [4, 0, 2, 3.4]], np.zeros((5, 4))]
    )
    names = np.array([[1, 99, 3, 4, 5], [99] * 5], np.int32)
    rows = jet_rows(momenta, 3, "x", pdgid=names)
    assert (
        rows["Nobj"].tolist() == [3, 0]
        and rows["pdgid"].tolist() == [[4, 3, 5], [0, 0, 0]]
        and rows["pdgid"].dtype == np.int32
    )
    assert np.array_equal(rows["Pmu"][0], momenta[0, [3, 2, 4]].astype(np.float32)) and rows["Pmu"].dtype == np.float32
    wide = jet_rows(momenta, 7, "x", pdgid=names)
    assert (
        wide["Nobj"].tolist() == [4, 0]
        and wide["Pmu"].shape == (2, 7, 4)
        and wide["pdgid"][0].tolist() == [4, 3, 5, 1, 0, 0, 0]
    )
    assert not wide["Pmu"][0, 4:].any() and not wide["Pmu"][1].any()


def test_equal_pt_keeps_the_order_of_the_source():
    """Breaks if the sort is not stable: a file that is already sorted would change."""
    px = np.random.default_rng(0).integers(1, 4, 500)
    momenta = np.stack([px, px, 0 * px, 0 * px], -1)[None].astype(float)
    assert jet_rows(momenta, 500, "x", n=np.arange(500)[None])["n"][0].tolist() == sorted(
        range(500), key=lambda k: -px[k]
    )


@pytest.mark.parametrize("entry, value", [((1, 0, 2), np.nan), ((1, 1, 0), -1.0), ((1, 1, 0), np.inf)])
def test_bad_momenta_are_named(entry, value):
    """Breaks if a jet that training would refuse is written, or the message has its number in the block."""
    momenta = np.full((2, 2, 4), [2.0, 1, 1, 1])
    momenta[entry] = value
    with pytest.raises(InputError, match="f.h5 of jet 41"):
        jet_rows(momenta, 2, "f.h5", 40)


def test_bad_features_are_named():
    """Breaks if a NaN of a particle passes, or a NaN in the padding is refused."""
    momenta = np.full((1, 2, 4), [2.0, 1, 1, 1])
    with pytest.raises(InputError, match="jet 0"):
        jet_rows(momenta, 2, "f.h5", d0=np.array([[0, np.nan]]))
    momenta[0, 1] = 0
    assert jet_rows(momenta, 2, "f.h5", d0=np.array([[3, np.nan]]))["d0"].tolist() == [[3, 0]]


def test_one_hot_numbers():
    """Breaks if rows with no flag, two flags, or other numbers pass as class 0."""
    assert one_hot_numbers(np.eye(3)[[2, 0]], ("a", "b", "c"), "x").tolist() == [2, 0]
    for wrong in ([0, 0, 0], [1, 1, 0], [2, -1, 0], [0.5, 0.5, 0]):
        with pytest.raises(InputError, match="x: jet 8: expected exactly one of a, b, c"):
            one_hot_numbers(np.array([[1, 0, 0], wrong]), ("a", "b", "c"), "x", 7)


def test_stopped_converter_leaves_nothing(tmp_path):
    """Breaks if SIGTERM leaves a partial file or a traceback, or ends with status 0. The converter here never ends."""
    code = """if True:
        import time
        from pathlib import Path
        import numpy as np
        from puffin.data.commands import run_converter
        from puffin.data.jet_writer import jet_file
        def main(argv):
            with jet_file(Path(r"%s"), {}) as writer:
                writer.append({"Nobj": np.ones(3, np.int32)})
                print("ready", flush=True)
                time.sleep(60)
        run_converter(main)""" % (tmp_path / "train.h5")
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert process.stdout.readline() == "ready\n" and list(tmp_path.iterdir())
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1 and error.startswith("interrupted") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
