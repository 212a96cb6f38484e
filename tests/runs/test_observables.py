"""A classifier with --observables, from the training to its uses."""

import h5py
import numpy as np
import pytest
import torch

import puffin
import train_pelican_classifier
from puffin.errors import InputError
from puffin.models.single_jet import SingleJetClassifier
from tests.runs.helpers import TINY_PELICAN, copy_jets, existing_run
from tools import stress

pytest.importorskip("fastjet")


@pytest.fixture(scope="module")
def run(small_jets, tmp_path_factory):
    """Folders of the jets and of a trained run, which reads the 10 hardest particles and changes the scale."""
    data, work = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("work")
    for split in ("train", "valid", "test"):  # copies: the observables are stored beside the files
        copy_jets(small_jets / f"{split}.h5", data / f"{split}.h5", ("Pmu", "is_signal"), 60)
    flags = [*TINY_PELICAN, "--observables", "--nobj", "10", "--scale", "0.5", "--num-epoch", "2", "--prefix", "tiny"]
    train_pelican_classifier.main([*flags, "--datadir", str(data), "--workdir", str(work), "--lr-init", "0.01"])
    return data, work


def predictions(path):
    """Return the scores of a file of predictions."""
    return torch.load(path, weights_only=True)["predict"].numpy()


def test_the_same_scores_everywhere(run):
    """Breaks if an evaluation or Python gives the network other observables than the training, such as those of the 10
    hardest particles, or of scaled momenta."""
    data, work = run
    expected = predictions(work / "predict/tiny.best.test.pt")
    flags = existing_run(data, work, "--eval", "--loadfile", str(work / "model/tiny_best.pt"))
    train_pelican_classifier.main([*flags, "--testfile", str(data / "test.h5")])
    again = predictions(work / f"predict/tiny.best.test.{data.name}.pt")
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)
    tagger = puffin.load(work / "model/tiny_best.pt")
    with h5py.File(data / "test.h5") as file:
        padded = file["Pmu"][()]
    for form in (data / "test.h5", padded):
        np.testing.assert_allclose(tagger.predict(form), expected, rtol=1e-4, atol=1e-5)
    without = tagger.network.read_out(
        tagger.network.through_blocks(tagger._pack(padded, None, [0, 1])), torch.zeros(2, 47)
    )
    assert np.abs(without.detach().numpy() - expected[:2]).max() > 1e-3


def test_stress_computes_observables_of_the_changed_jets(run, capsys):
    """Breaks if perturbed jets keep the observables of the original ones: an unchanged jet must give the same table."""
    data, work = run
    stress.main([str(work / "model/tiny_best.pt"), "--testfile", str(data / "test.h5"), "--only", "scale"])
    table = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert len({line[3] for line in table}) > 1


def test_no_export(run):
    """The error says what to do instead."""
    with pytest.raises(InputError, match="train the network without --observables"):
        SingleJetClassifier(puffin.load(run[1] / "model/tiny_best.pt").network)
