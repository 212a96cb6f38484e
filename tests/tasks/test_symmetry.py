"""Lorentz symmetry of every stabilizer and method, with controls that must fail; IRC safety."""

import pytest
import torch

from puffin.layers.lorentz import COMPONENTS
from puffin.layers.symmetries import UNCHANGED
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.settings.stabilizers import SPURIONS
from puffin.tasks.symmetry import measure_symmetries, network_generators
from tests.models.test_pelican import small

DIMENSION = {
    "so13": 6,
    "so3": 3,
    "so12": 3,
    "se2": 3,
    "so2": 1,
    "so2_0": 1,
    "R": 1,
    "1": 0,
    "11": 0,
    "1_0": 0,
    "11_0": 0,
}


@pytest.mark.parametrize("network", [PelicanClassifier, PelicanRegressor])
@pytest.mark.parametrize("method", ["spurions", "input"])
@pytest.mark.parametrize("stabilizer", SPURIONS)
def test_stabilizer(stabilizer, method, network):
    """Scores are invariant and momenta covariant under the stabilizer; transformations outside it must break this."""
    model = network(small(stabilizer=stabilizer, method=method)).double()
    if method == "input" and COMPONENTS[stabilizer]:
        torch.nn.init.normal_(model.linear.weight, std=0.3)  # it starts on the invariant alone
    stabilizer_part, complement = network_generators(model.config)
    assert (len(stabilizer_part), len(complement)) == (DIMENSION[stabilizer], 6 - DIMENSION[stabilizer])
    results = measure_symmetries(model)
    assert len(results) == 5 + bool(len(stabilizer_part)) + bool(len(complement))
    for r in results:
        assert r.passed, r


@pytest.mark.parametrize("config", ["s", "m", "S", "M", "sM"])
def test_irc_safe(config):
    """A particle without momentum, or a collinear splitting, must not move the output."""
    results = {
        r.name: r
        for r in measure_symmetries(
            PelicanClassifier(small(stabilizer="so13", irc_safe=True, config=config, config_out=config))
        )
    }
    assert results["a particle of no momentum added"].expected == UNCHANGED and all(r.passed for r in results.values())


def test_irc_check_can_fail():
    """With the diagonal maps of the published network a splitting does move the output: the test above sees it."""
    torch.manual_seed(1)
    config = small(stabilizer="so13", irc_safe=True, config="s", config_out="s", irc_diagonal=True)
    failed = [r.name for r in measure_symmetries(PelicanClassifier(config)) if not r.passed]
    assert failed == ["a particle split in two"]
    soft = measure_symmetries(PelicanClassifier(small(stabilizer="so13", config="m", config_out="m")))
    assert all(r.passed for r in soft)


@pytest.mark.parametrize("network", [PelicanClassifier, PelicanRegressor])
def test_features_of_particles(network):
    """Scalars stay with their particles under permutations, and are no vectors under boosts."""
    results = measure_symmetries(network(small(num_scalars=3)))
    assert len(results) == 5 and all(r.passed for r in results)


def test_published_split_for_se2_is_seen_to_fail():
    """Its momenta do not follow the stabilizer: the report must say so."""
    model = PelicanRegressor(small(stabilizer="se2", method="input", published_projections=True))
    torch.nn.init.normal_(model.linear.weight, std=0.3)
    assert [r.name for r in measure_symmetries(model) if not r.passed] == ["stabilizer se2 (3 generators)"]
