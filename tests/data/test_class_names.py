"""Names of classes come from the attributes of the files, or there are none."""

import logging

import h5py
import numpy as np
import pytest

from puffin.data.class_names import class_names
from tests.conftest import ROOT

SAMPLES = ROOT / "data/sample_data"


def make(path, **attributes):
    with h5py.File(path, "w") as file:
        file["jet_tag"] = np.zeros(3, int)
        file["other"] = np.zeros(3, int)
        file.attrs.update(attributes)
    return path


def test_names_of_the_samples():
    """The generator's processes; signal and background have names without an attribute."""
    files = sorted((SAMPLES / "multiclass").glob("*.h5"))
    assert class_names(files, "jet_tag", 5) == ("gluon", "quark", "w", "z", "top")
    assert class_names(files, "jet_tag", 4) == () and class_names(files, "pdgid", 5) == ()
    assert class_names(files, "is_signal", 2) == ("background", "signal")


@pytest.mark.parametrize("values", [["g", "q"], np.array([b"g", b"q"])])
def test_names_of_converters(tmp_path, values):
    """The attribute `classes`, as text or bytes, of the file or of the data set, which comes first."""
    path = make(tmp_path / "a.h5", classes=values)
    assert class_names([path], "jet_tag", 2) == ("g", "q") and class_names([path], "other", 2) == ()
    with h5py.File(path, "a") as file:
        file["other"].attrs["classes"] = ["light", "heavy"]
    assert class_names([path], "other", 2) == ("light", "heavy")


def test_files_that_disagree(tmp_path, caplog, monkeypatch):
    """Another order of the classes is a warning, which names the files: numbers mean different classes then."""
    monkeypatch.setattr(logging.getLogger("puffin"), "propagate", True)
    files = [make(tmp_path / "a.h5", classes=["g", "q"]), make(tmp_path / "b.h5", classes=["q", "g"])]
    assert class_names([*files, make(tmp_path / "c.h5")], "jet_tag", 2) == ()
    assert "a.h5: g, q" in caplog.text and "b.h5: q, g" in caplog.text
