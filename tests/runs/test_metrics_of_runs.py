"""Metrics in whole runs: refused at the start where they cannot exist, few of them in the log, all in the tables."""

import h5py
import numpy as np
import pytest

import train_pelican_classifier as classifier
import train_pelican_cov as regressor
from puffin.metrics.classification import columns
from tests.conftest import ROOT
from tests.runs.helpers import copy_jets, refused_by, row
from tests.runs.test_classifier_script import TINY


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Jets of five classes; the validation jets are all signal. Weights: none for background, and none at all."""
    folder = tmp_path_factory.mktemp("one_class")
    for split, n in (("train", 60), ("valid", 20), ("test", 40)):
        sample = ROOT / "data/sample_data/multiclass" / f"{split}.h5"
        copy_jets(sample, folder / f"{split}.h5", ("Pmu", "jet_tag", "truth_Pmu"), n)
        with h5py.File(sample) as source, h5py.File(folder / f"{split}.h5", "a") as file:
            file.attrs["processes"] = source.attrs["processes"]
            top = file["jet_tag"][()] == 4
            file["is_signal"] = np.ones(n, int) if split == "valid" else top.astype(int)
            file["mixed"] = top.astype(int)
            file["only_top"] = top.astype(float)
            file["none"] = np.zeros(n)
            file["tiny"] = np.full(n, 1e-35)
    return folder


def command(data, work, *flags, prefix="tiny"):
    return [*TINY, "--datadir", str(data), "--workdir", str(work), "--prefix", prefix, "--num-epoch", "1", *flags]


@pytest.mark.parametrize(
    "script, argv, message",
    [
        (classifier, "--best-by AUC", "--best-by AUC: .*valid.*no event is of class 0 (background)"),
        (classifier, "--best-by BgRejectionAt0.5", "no event is of class 0 (background)"),
        (classifier, "--target mixed --best-by AUC --weights-key only_top", "all events of class 0 have weight 0"),
        (classifier, "--target mixed --weights-key none", "--weights-key none: the weights of all events are 0"),
        (regressor, "--target truth_Pmu --weights-key none", "--weights-key none: the weights of all events are 0"),
    ],
)
def test_refused_before_training(data, tmp_path, capsys, script, argv, message):
    """One line with the class, before anything is written. Breaks if such a run trains with nan as the best."""
    error = refused_by(script.main, command(data, tmp_path, *argv.split()), capsys)
    assert all(part in error for part in message.split(".*"))
    assert not list(tmp_path.rglob("*.pt"))


def test_tiny_weights_change_nothing(data, tmp_path):
    """Weights of 1e-35 train the same network as weights of 1. Breaks if the loss or a metric divides by a constant."""
    for name, flags in (("plain", []), ("tiny", ["--weights-key", "tiny"])):
        classifier.main(command(data, tmp_path, "--target", "mixed", "--no-plot", *flags, prefix=name))
    plain, tiny = (row(tmp_path / f"log/{name}.Best.metrics.csv") for name in ("plain", "tiny"))
    for column in columns(2):
        assert float(tiny[column]) == pytest.approx(float(plain[column]), rel=1e-3, nan_ok=True), column


def test_log_of_several_classes(data, tmp_path):
    """The log has the few numbers that matter, the tables have all of them."""
    flags = "--target jet_tag --num-classes 5 --summarize-csv all".split()
    classifier.main(command(data, tmp_path, *flags))
    log = (tmp_path / "log/tiny.log").read_text().splitlines()
    lines = [line for line in log if "epoch 1/1" in line or "best test:" in line]
    assert len(lines) == 2
    for line in lines:
        assert "accuracy" in line and "AUC" in line and "AUC_0" not in line and "Rejection" not in line
    assert set(columns(5)) <= set(row(tmp_path / "log/tiny.Best.metrics.csv"))
    assert {f"valid_{name}" for name in columns(5)} <= set(row(tmp_path / "log/tiny.epochs.csv"))
