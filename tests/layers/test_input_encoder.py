"""The input encoder: its definition, equivariance, and the operation behind it."""

import pytest
import torch

from puffin.layers.dense_pairs import DensePairs
from puffin.layers.input_encoder import InputEncoder
from tests.conftest import relative
from tests.layers.equivariance import BatchMates, PairLayer, Permutations, assert_equivariant, geometry


@pytest.mark.parametrize("group", [Permutations(), BatchMates()], ids=["permutations", "batch-mates"])
@pytest.mark.parametrize("irc_safe", [False, True])
def test_equivariance(irc_safe, group):
    """Each pair is compressed alone."""
    assert_equivariant(PairLayer(InputEncoder(3, irc_safe).double(), "pairs", "pairs", local=True), group)


@pytest.mark.parametrize("irc_safe", [False, True])
def test_definition(irc_safe):
    """Section 2 of docs/MATHEMATICS_PELICAN.md over many orders of magnitude, with more rows than one block."""
    encoder = InputEncoder(4, irc_safe).double()
    x = torch.randn(5000, 4, dtype=torch.float64) * 10 ** torch.linspace(-6, 6, 5000, dtype=torch.float64)[:, None]
    a = 1e-6 + torch.linspace(0.05, 0.5, 4).double() ** 2
    expected = ((1e-5 + x.abs()) ** a - 1) / a if irc_safe else x.sign() * ((1 + x.abs()) ** a - 1) / a
    assert relative(encoder(x, geometry([1])), expected) < 1e-10


@pytest.mark.parametrize("irc_safe", [False, True])
def test_dense_equals_packed(irc_safe):
    """Bit for bit in float32, whose rounding trained networks carry."""
    encoder, x = InputEncoder(4, irc_safe), torch.randn(36, 4) * 100
    dense = encoder(x.view(6, 6, 4), DensePairs(torch.tensor([[6.0]])))
    assert torch.equal(dense.view(36, 4), encoder(x, geometry([6])))
