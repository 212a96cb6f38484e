"""Probes of the blocks of a PELICAN network."""

import numpy as np
import pytest
import torch

from puffin.models.pelican import PelicanClassifier
from puffin.tasks.block_probe import block_features, probe_blocks
from puffin.tasks.symmetry import toy_jets
from tests.models.test_pelican import small


@pytest.mark.parametrize("settings", [{}, {"irc_safe": True, "config": "s", "config_out": "s"}], ids=str)
def test_features_of_a_jet(settings):
    """The features are means over pairs and over particles, of this jet alone; the last ones are of the last block."""
    model, jets = PelicanClassifier(small(stabilizer="so13", **settings)).double().eval(), toy_jets(3, seed=1)
    found = block_features(model, jets)
    assert [x.shape for x in found] == [(3, 2 * width) for width in _widths(model)]
    jet = jets.part(1, 2)
    for together, alone in zip(found, block_features(model, jet), strict=True):
        torch.testing.assert_close(together[1:2], alone)
    x, geometry, _ = model.through_blocks(jet)
    weights = torch.ones(len(jet.fourmomenta)).double() if geometry.weights is None else geometry.weights
    i, j = geometry.index.row, geometry.index.column
    pairs = (x * (weights[i] * weights[j])[:, None]).sum(0) / weights.sum() ** 2
    particles = (x[: len(weights)] * weights[:, None]).sum(0) / weights.sum()
    torch.testing.assert_close(found[-1][1], torch.cat([pairs, particles]))


def _widths(model):
    inputs = model.net2to2.message_layers[0].linear[0].in_features
    return [inputs, *(len(layer.bias) for layer in model.net2to2.eq_layers)]


def test_the_squared_mass_is_in_the_input():
    """The input of the blocks contains the mean of the dot products. A number that follows another law in the second
    half of the jets is not read: breaks if the regressions are judged on the jets that they are fitted to."""
    model = PelicanClassifier(small(stabilizer="so13")).double().eval()
    batches = [toy_jets(20, seed=seed) for seed in range(10)]
    features = torch.cat([block_features(model, batch)[0] for batch in batches])
    other = torch.cat([features[:100, 0], -features[100:, 0]])
    values = torch.stack([features[:, 0], other], 1).numpy()
    found = probe_blocks(model, batches, values)
    assert found.shape == (1 + len(model.net2to2.eq_layers), 2)
    assert found[0, 0] > 0.999 and found[0, 1] < -1 and np.isfinite(found).all()
