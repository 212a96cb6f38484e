"""The relevance of particles and pairs for a score."""

from dataclasses import replace

import pytest
import torch

from puffin.models.pelican import PelicanClassifier
from puffin.tasks.relevance import relevance
from puffin.tasks.symmetry import toy_jets
from tests.models.test_pelican import small


def score(logits):
    return logits[0, 1] - logits[0, 0]


def network(**settings):
    """Return a network of random weights in evaluation mode, and a jet, both in double precision."""
    model = PelicanClassifier(small(**settings)).double().eval()
    torch.nn.init.normal_(model.linear.weight, std=0.3)
    return model, toy_jets(1, seed=3)


@pytest.mark.parametrize("settings", [{"stabilizer": "so13"}, {"stabilizer": "so2_0"}], ids=str)
def test_particles(settings):
    """The relevance of a particle is the change of the score per relative change of its momentum."""
    model, jet = network(**settings)
    found, step = relevance(model, jet, score).particles, 1e-6
    for k in range(len(jet.fourmomenta)):
        scores = []
        for factor in (1 + step, 1 - step):
            momenta = jet.fourmomenta.clone()
            momenta[k] *= factor
            scores.append(score(model(replace(jet, fourmomenta=momenta))).item())
        assert (scores[0] - scores[1]) / (2 * step) == pytest.approx(found[k].item(), rel=1e-4, abs=1e-8)


def test_pairs():
    """The pairs add up to half of the particles, and are numbered without spurions."""
    model, jet = network(stabilizer="so13")
    found, number = relevance(model, jet, score), len(jet.fourmomenta)
    assert 2 * found.of_pairs.sum().item() == pytest.approx(found.particles.sum().item(), rel=1e-6)
    assert len(found.pairs) == number * (number + 1) // 2 and (found.pairs[:, 0] <= found.pairs[:, 1]).all()
    with_spurions, jet = network(stabilizer="so2_0", method="spurions")
    assert with_spurions.config.spurions
    assert torch.equal(relevance(with_spurions, jet, score).pairs, found.pairs)
