"""The input encoder: its definition, and equivariance."""

import pytest
import torch
from torch import nn

from puffin.layers.dense_pairs import DensePairs
from puffin.layers.input_encoder import InputEncoder
from tests.conftest import relative
from tests.layers.equivariance import BatchMates, PairLayer, Permutations, assert_equivariant, geometry


@pytest.mark.parametrize("group", [Permutations(), BatchMates()], ids=["permutations", "batch-mates"])
@pytest.mark.parametrize("irc_safe", [False, True])
def test_equivariance(irc_safe, group):
    """Each pair is compressed alone."""
    encoder, linear = InputEncoder(3, irc_safe).double(), nn.Linear(3, 3).double()

    def embed(x, pairs):
        left, right = pairs.ends(x)
        return encoder(left * right, linear, pairs)

    assert_equivariant(PairLayer(embed, "nodes", "pairs"), group)


@pytest.mark.parametrize("irc_safe", [False, True])
def test_definition(irc_safe):
    """Section 2 of docs/MATHEMATICS_PELICAN.md over many orders of magnitude."""
    encoder, linear = InputEncoder(4, irc_safe).double(), nn.Linear(2, 4).double()
    pairs = geometry([99])
    x = torch.randn(4950, 2, dtype=torch.float64) * 10 ** torch.linspace(-6, 6, 4950, dtype=torch.float64)[:, None]
    a, y = 1e-6 + torch.linspace(0.05, 0.5, 4).double() ** 2, linear(x)
    expected = ((1e-5 + y.abs()) ** a - 1) / a if irc_safe else y.sign() * ((1 + y.abs()) ** a - 1) / a
    assert relative(encoder(x, linear, pairs), pairs.index.mirror(expected)) < 1e-10


@pytest.mark.parametrize("irc_safe", [False, True])
def test_dense_equals_packed(irc_safe):
    """In float32 up to its rounding: (power - 1) / a is a difference of close numbers, divided by a small one."""
    encoder, linear, pairs = InputEncoder(4, irc_safe), nn.Linear(1, 4), geometry([6])
    nodes = torch.randn(6, 1) * 10
    left, right = pairs.ends(nodes)
    dense = encoder(nodes[:, None] * nodes[None], linear, DensePairs(torch.tensor([[6.0]])))
    packed = encoder(left * right, linear, pairs)
    torch.testing.assert_close(dense[pairs.index.row, pairs.index.column], packed, rtol=1e-6, atol=2e-7 / 0.05**2)
