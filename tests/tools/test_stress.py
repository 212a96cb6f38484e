"""tools/stress.py: the table and the picture for a published tagger."""

import csv
from functools import partial

import h5py
import pytest

from puffin.checkpoints.reading import read_checkpoint
from puffin.data.perturb import Perturbation, drop_soft
from puffin.metrics.classification import classification_metrics
from tests.conftest import GOLDEN
from tests.runs.helpers import copy_jets, refused_by
from tools import stress

refused = partial(refused_by, stress.main)
RUN = GOLDEN / "pelican_run"


def test_table_and_picture(tmp_path, capsys, monkeypatch):
    """Unperturbed jets give the published AUC, others do not; the files are written."""
    monkeypatch.setitem(stress.PERTURBATIONS, "loss", Perturbation(drop_soft, (20.0,)))
    table, picture = tmp_path / "s.csv", tmp_path / "s.png"
    flags = ["--testfile", str(RUN / "test.h5"), "--only", "loss", "--resamples", "5"]
    stress.main([str(RUN / "ref_best.pt"), *flags, "--csv", str(table), "--png", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("400 jets, 200 of them signal.") and len(lines) == 6
    assert lines[4].startswith("| none | 0 |") and lines[4].endswith("| 1 | 1 |")
    assert lines[5].startswith("| loss of particles below a pT [GeV] | 20 | ")
    with open(table, newline="") as file:
        auc = {row["method"]: float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "AUC"}
    saved = read_checkpoint(RUN / "ref.best.test.pt")
    published = classification_metrics(saved["predict"].numpy(), saved["targets"].numpy().astype(int), 0.0)["AUC"]
    assert auc["none 0"] == pytest.approx(published, abs=1e-4)
    assert abs(auc["loss 20"] - published) > 1e-3
    assert picture.stat().st_size > 10_000


def test_refused(tmp_path, capsys):
    """Other networks, and test jets of one class."""
    text = refused([str(GOLDEN / "polarmae/polarmae.ckpt")], capsys)
    assert "expected a jet classifier with two classes, found TokenEncoder" in text
    one = tmp_path / "test.h5"
    copy_jets(RUN / "test.h5", one, ("Pmu", "is_signal"), 20)
    with h5py.File(one, "r+") as file:
        file["is_signal"][:] = 1
    assert "no event is of class 0 among the test jets" in refused(
        [str(RUN / "ref_best.pt"), "--testfile", str(one)], capsys
    )
