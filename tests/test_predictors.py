"""`puffin.load`: the same numbers as the prediction files of the scripts, from every form of input."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

import puffin
import train_pelican_classifier
import train_pelican_cov
import train_segmentation
from puffin.errors import InputError
from tests.conftest import ROOT
from tests.runs.helpers import TINY_CLOUDS

SMALL = (
    "--num-channels-m [[4],[4]] --num-channels-2to2 [3,3] --num-channels-m-out [4,3] --num-channels-out [3] "
    "--num-channels-scalar 2 --nobj 20 --scale 0.5 --num-epoch 1 --batch-size 16 --cpu --threads 1 "
    "--no-plot --prefix small"
).split()


@pytest.fixture(scope="module")
def tagger(small_jets, tmp_path_factory):
    """A trained tagger, its scores of the test file, and that file."""
    work = tmp_path_factory.mktemp("tagger")
    train_pelican_classifier.main([*SMALL, "--datadir", str(small_jets), "--workdir", str(work)])
    scores = torch.load(work / "predict/small.best.test.pt", weights_only=True)["predict"].numpy()
    return puffin.load(work / "model/small_best.pt"), scores, small_jets / "test.h5"


def test_jets_in_every_form(tagger):
    """A path, a padded array and a list of arrays give the scores of the script; padding and batch size do not
    matter."""
    network, scores, path = tagger
    with h5py.File(path) as file:
        padded = file["Pmu"][()]
    forms = [path, str(path), padded, [jet[jet[:, 0] != 0] for jet in padded]]
    for form in forms:
        found = network.predict(form, batch_size=7)
        assert found.shape == scores.shape and np.abs(found - scores).max() < 1e-5 * np.abs(scores).max()
    assert np.allclose(network.predict_probabilities(padded).sum(1), 1)
    assert network.predict([]).shape == (0, 2)
    assert network.settings.data.nobj == 20 and isinstance(network.network, torch.nn.Module)
    assert network.device == torch.device("cpu") and "JetClassifier" in repr(network)


@pytest.mark.parametrize(
    "jets, message",
    [
        ([np.zeros((3, 5))], r"jet 0: expected an array \(n, 4\)"),
        ([np.full((3, 4), np.nan)], "not finite"),
        ("nowhere.h5", "nowhere.h5"),
    ],
)
def test_bad_jets(tagger, jets, message):
    """The message says which jet, and what was expected."""
    with pytest.raises(InputError, match=message):
        tagger[0].predict(jets)
    with pytest.raises(InputError, match="takes 0 features"):
        tagger[0].predict([np.ones((3, 4))], scalars=[np.ones((3, 1))])
    with pytest.raises(InputError, match="batch_size"):
        tagger[0].predict([np.ones((3, 4))], batch_size=0)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda jet: jet[:, [1, 2, 3, 0]],
            "momenta: expected .* look like px,py,pz,E. Pass the columns E, px, py, pz, not",
        ),
        (lambda jet: np.concatenate([jet, np.full((40, 4), -1)]), "momenta of jet 2: -1 is used as padding"),
        (lambda jet: jet * [-1, 1, 1, 1], "momenta of jet 2, particle 0: the energy is negative"),
        (lambda jet: jet * [0.5, 1, 1, 1], r"momenta of jet 2, particle 0: E = .* is less than \|p\|"),
    ],
)
def test_momenta_are_checked(tagger, change, message):
    """Arrays are checked like files. Breaks if a network is applied to what it cannot know."""
    network, _, path = tagger
    with h5py.File(path) as file:
        jets = [jet[jet[:, 0] != 0][:3] for jet in file["Pmu"][:5]]
    jets[2] = change(jets[2])
    with pytest.raises(InputError, match=message):
        network.predict(jets)


def test_published_tagger(run_folder):
    """A published checkpoint gives the published scores."""
    found = puffin.load(run_folder / "ref_best.pt").predict(run_folder / "test.h5")
    published = torch.load(run_folder / "ref.best.test.pt", weights_only=False)["predict"].numpy()
    assert np.abs(found - published).max() < 1e-4


def test_momenta(tmp_path):
    """A regressor gives the momenta of the script, in GeV."""
    jets = ROOT / "data/sample_data/run12"
    flags = [*SMALL, "--num-train", "60", "--num-valid", "20", "--num-test", "30"]
    train_pelican_cov.main([*flags, "--datadir", str(jets), "--workdir", str(tmp_path)])
    saved = torch.load(tmp_path / "predict/small.best.test.pt", weights_only=True)
    with h5py.File(jets / "test.h5") as file:
        chosen = file["Pmu"][()][saved["row"].numpy()]
    found = puffin.load(tmp_path / "model/small_best.pt").predict(chosen)
    expected = saved["predict"].numpy()
    assert found.shape == expected.shape == (30, 1, 4)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_tokens_and_points(small_clouds, pretrained, tmp_path):
    """An autoencoder gives an embedding per token; a segmentation the probabilities of the script, nan for
    dropped points."""
    path = small_clouds / "val/events_v2.h5"
    embeddings = puffin.load(pretrained).predict(path, batch_size=2)
    assert len(embeddings) == 7 and all(x.shape[1] == 192 and np.isfinite(x).all() for x in embeddings)
    flags = [*TINY_CLOUDS, "--arch", "vit_tiny", "--depth", "1", "--head-dim", "16", "--num-step", "1", "--no-plot"]
    train_segmentation.main([*flags, "--datadir", str(small_clouds), "--workdir", str(tmp_path)])
    labels = puffin.load(tmp_path / "model/tiny_best.pt")
    found = labels.predict(path, batch_size=3)
    with h5py.File(tmp_path / "predict/tiny.best.test.h5") as file:
        ptr, row, probability, event = (file[name][()] for name in ("ptr", "row", "probability", "event"))
    for k, number in enumerate(event):
        part = slice(ptr[k], ptr[k + 1])
        assert np.allclose(found[number][row[part]], probability[part], atol=2e-3)  # which are stored in half precision
        dropped = np.ones(len(found[number]), bool)
        dropped[row[part]] = False
        assert np.isnan(found[number][dropped]).all() and np.isfinite(found[number][~dropped]).all()
    arrays = [np.array([[300, 300, 300, 1.0], [301, 300, 300, 0.05], [302, 300, 300, 2.0]])]
    (one,) = labels.predict(arrays)
    assert one.shape == (3, 4) and np.isnan(one[1]).all() and np.allclose(one[[0, 2]].sum(1), 1, atol=1e-5)


def test_importing_is_cheap():
    """`import puffin` alone imports no PyTorch; `puffin.load` and `puffin.ops` come when they are used."""
    code = (
        "import sys, puffin; assert 'torch' not in sys.modules; puffin.ops, puffin.load; "
        "assert not any(m == 'src' or m.startswith('src.') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT / "src")})
    assert not hasattr(puffin, "nothing")
