"""Tokens of the linear probe: their labels, and which of them are taken."""

import numpy as np
import torch

from puffin.data.packing import CloudBatch
from puffin.data.pilarnet import CloudDataset, CloudSelection
from puffin.tasks.token_probe import TokenProbe, token_labels
from tests.conftest import ROOT
from tests.layers.clouds import tracks
from tests.tasks.test_masked_modelling import make_task


def test_labels_are_those_of_the_points():
    """Against a loop over tokens, with classes beyond those asked for. Breaks if points are taken by their place in the
    group instead of the event."""
    points, lengths = tracks([150, 80])
    semantic = torch.randint(0, 5, (230,))
    tokens = make_task().model.encoder.tokenize(points, lengths)
    labels = token_labels(tokens, semantic, 4)
    for row, members in zip(labels, tokens.index.split(tokens.counts.tolist()), strict=True):
        assert set(row.nonzero().flatten().tolist()) == set(semantic[members].tolist()) - {4}
    assert labels.shape == (len(tokens), 4) and not labels.all()


def test_features_that_are_the_labels():
    """With the class itself as feature the probe is nearly perfect, with a constant it is not; on real files.

    Breaks if features and labels, or the two splits, are mixed up."""
    folder, model = ROOT / "data/sample_data/lartpc", make_task().model.eval()
    datasets = {
        split: CloudDataset(sorted((folder / name).glob("*.h5")), CloudSelection())
        for split, name in (("train", "train"), ("valid", "val"))
    }
    probe = TokenProbe(datasets, seed=1, most=600)
    assert probe.names == ("shower", "track", "michel", "delta")
    of_tokens = {id(part.samples): part.labels for split in datasets for part in probe.samples(model, split)}
    good = probe.judge(model, "valid", lambda tokens: torch.from_numpy(of_tokens[id(tokens)] * 10.0))
    assert good["probe_f1_track"] > 0.97 and good["probe_f1_shower"] > 0.97
    poor = probe.judge(model, "valid", lambda tokens: torch.ones(len(tokens), 3))
    assert poor["probe_f1_mean"] < good["probe_f1_mean"] - 0.2
    state = torch.get_rng_state()
    one, other = (TokenProbe(datasets, seed=1, most=600)(model, "valid") for _ in range(2))
    assert np.array_equal(list(one.values()), list(other.values()), equal_nan=True)
    assert torch.equal(state, torch.get_rng_state())  # a probe must not change training


def test_batches_without_points():
    """Breaks if an event without points has labels of another."""
    tokens = make_task().model.encoder.tokenize(torch.zeros(0, 4), torch.tensor([0, 0]))
    assert token_labels(tokens, CloudBatch(torch.zeros(0, 4), torch.tensor([0, 0])).lengths[:0], 4).shape == (0, 4)
