"""The weights in weights/: they fit the networks of this version, and label events and jets as the card says."""

import h5py
import pytest
import torch
from sklearn.metrics import roc_auc_score

import puffin
from bench.encoder_ablation import f1_scores
from puffin.data.pilarnet import CloudDataset, CloudSelection
from puffin.detector import PILARNET
from tests.conftest import ROOT


def test_unet_labels_the_sample_events():
    """Breaks if a hand-made feature, a kernel or a layer of the U-Net changes what trained weights compute."""
    network = puffin.load(ROOT / "weights/lartpc_unet.pt").network
    files = sorted((ROOT / "data/sample_data/lartpc").rglob("*.h5"))
    metrics = f1_scores(network, CloudDataset(files, CloudSelection(min_points=0)), PILARNET.classes(remove_led=True))
    assert metrics["f1_macro"] > 0.85


@pytest.mark.parametrize(("name", "least"), [("11k-tops", 0.95), ("48k-tops", 0.96)])
def test_tagger_tells_the_sample_jets_apart(name, least):
    """Breaks if preparation, invariants or a kernel change what trained weights compute."""
    path = ROOT / "data/sample_data/run12/test.h5"
    logits = puffin.load(name).predict(path)
    with h5py.File(path) as file:
        assert roc_auc_score(file["is_signal"][:], logits[:, 1] - logits[:, 0]) > least


def test_weights_are_small_and_hold_no_state_of_a_training():
    """Breaks if a checkpoint is committed as the training wrote it: 20 MB, with an optimizer and paths of a machine."""
    for path in (ROOT / "weights").glob("*.pt"):
        content = torch.load(path, weights_only=True)
        assert path.stat().st_size < 8e6 and "optimizer" not in content and "rng" not in content
        assert not any(str(value).startswith("/") for value in content["args"].values())
