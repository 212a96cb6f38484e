"""bench/jets_baseline.py: runs in the format of a network's."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import train_pelican_classifier
from bench import jets_baseline
from puffin.data.jet_observables import NAMES
from puffin.errors import InputError
from puffin.tables import read_records

pytest.importorskip("fastjet")
SAMPLES = Path(__file__).resolve().parents[2] / "data" / "sample_data"


@pytest.fixture
def jets(tmp_path):
    """A folder with 60 training and 30 test jets of five classes, one of them without particles."""
    for split, number in (("train", 60), ("test", 30)):
        with h5py.File(SAMPLES / f"multiclass/{split}.h5") as whole, h5py.File(tmp_path / f"{split}.h5", "w") as part:
            for key in ("Pmu", "Nobj", "jet_tag", "is_signal"):
                part[key] = whole[key][:number]
            part["Pmu"][3], part["Nobj"][3] = 0, 0
    return tmp_path


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


def test_test_jets_without_labels(jets, tmp_path, capsys):
    """Breaks if labels of the jets to score are needed, or change the scores."""
    common = ["--datadir", str(jets), "--workdir", str(tmp_path), "--iterations", "5", "--prefix"]
    jets_baseline.main([*common, "with"])
    bare = tmp_path / "bare.h5"
    with h5py.File(jets / "test.h5") as whole, h5py.File(bare, "w") as part:
        part["Pmu"], part["Nobj"] = whole["Pmu"][()], whole["Nobj"][()]
    capsys.readouterr()
    jets_baseline.main([*common, "without", "--testfile", str(bare)])
    assert "no metrics, as the jets have no labels" in capsys.readouterr().out
    paths = (tmp_path / f"predict/{name}.pt" for name in ("without.best.test.bare", "with.best.test"))
    ours, theirs = (torch.load(path, weights_only=True) for path in paths)
    assert torch.equal(ours["predict"], theirs["predict"]) and "targets" not in ours
    assert not (tmp_path / "log/without.Best.metrics.csv").exists()


def test_simulated_jets_teach_the_trees(jets, tmp_path):
    """Breaks if the labels of --simulated are ignored, or count as much as those of the training jets.

    They are wrong here: with a small weight they hardly change the order of the jets, a large one reverses it."""
    wrong = tmp_path / "wrong.h5"
    with h5py.File(jets / "train.h5") as whole, h5py.File(wrong, "w") as part:
        part["Pmu"], part["Nobj"] = whole["Pmu"][()], whole["Nobj"][()]
        part["is_signal"] = 1 - whole["is_signal"][()]
    common = ["--datadir", str(jets), "--workdir", str(tmp_path), "--iterations", "20", "--prefix"]
    jets_baseline.main([*common, "none"])
    for weight in ("0.001", "1000"):
        jets_baseline.main([*common, weight, "--simulated", str(wrong), "--simulated-weight", weight])
    none, little, much = (
        torch.load(tmp_path / f"predict/{p}.best.test.pt", weights_only=True)["predict"].diff()[:, 0]
        for p in ("none", "0.001", "1000")
    )
    agreement = torch.corrcoef(torch.stack([none, little, much]))[0]
    assert agreement[1] > 0.5 and agreement[2] < -0.5 and not torch.equal(none, little)


def test_the_cut_keeps_a_window_of_mass():
    """Breaks if jets outside of the window are not background, or the order inside is not that of tau32."""
    sample = object.__new__(jets_baseline.Sample)
    sample.x = np.zeros((4, len(NAMES)), np.float32)
    sample.x[:, NAMES.index("mass")], sample.x[:, NAMES.index("tau32_1")] = (170, 170, 60, 400), (0.4, 0.7, 0.1, 0.2)
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
