"""Norms of pairs within each event: their definition, equivariance, and the choice by name."""

import pytest
import torch

from puffin.layers.dense_pairs import DensePairs
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.norms import NORMS, EventLayerNorm, InstanceNorm, make_norm
from tests.conftest import relative
from tests.layers.equivariance import BatchMates, PairLayer, Permutations, assert_equivariant, events_of, geometry

EVENT_NORMS = [InstanceNorm, EventLayerNorm]


def make(norm) -> torch.nn.Module:
    """Make a norm whose gain and bias are not those of the start."""
    made = norm(3).double()
    torch.nn.init.uniform_(made.weight, 0.5, 2), torch.nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("group", [Permutations(), BatchMates()], ids=["permutations", "batch-mates"])
@pytest.mark.parametrize("norm", EVENT_NORMS)
def test_equivariance(norm, group):
    """Breaks if statistics mix events, or rows alone."""
    assert_equivariant(PairLayer(make(norm), "pairs", "pairs"), group)


def test_batch_norm_is_seen_to_depend_on_batch_mates():
    """In training mode its statistics are those of the batch: the helper must say so; in eval mode they are not."""
    norm = MaskedBatchNorm(3).double()
    layer = PairLayer(lambda x, g: norm(x), "pairs", "pairs")
    with pytest.raises(AssertionError, match="each event alone"):
        assert_equivariant(layer, BatchMates())
    norm.eval()
    assert_equivariant(layer, BatchMates())


@pytest.mark.parametrize("norm", EVENT_NORMS)
def test_definition(norm):
    """Mean 0 and variance 1 over an event's pairs, per channel or over all; an event without nodes adds no rows."""
    layer, pairs = norm(3).double(), geometry([4, 0, 6])
    x = torch.randn(52, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.5]) + 3
    for event in events_of(layer(x, pairs).detach(), "pairs", pairs.index)[::2]:
        axes = (0, 1, 2) if norm is EventLayerNorm else (0, 1)
        variance, mean = torch.var_mean(event, axes, correction=0)
        assert mean.abs().max() < 1e-12 and (variance - 1).abs().max() < 1e-3


@pytest.mark.parametrize("norm", EVENT_NORMS)
def test_dense_equals_packed(norm):
    layer, pairs = make(norm), geometry([5])
    x = torch.randn(25, 3, dtype=torch.float64)
    dense = layer(events_of(x, "pairs", pairs.index)[0], DensePairs(pairs.multiplicity))
    assert relative(dense, events_of(layer(x, pairs), "pairs", pairs.index)[0]) < 1e-12


def test_half_precision_is_normalised_in_float32():
    x = torch.randn(9, 3).bfloat16()
    for norm in EVENT_NORMS:
        assert norm(3)(x, geometry([3])).dtype == torch.float32


def test_by_name():
    """Each name makes its norm; an unknown one is refused with the choices."""
    assert [type(make_norm(name, 3)) for name in NORMS] == [MaskedBatchNorm, *EVENT_NORMS, type(None)]
    assert make_norm("batch", 3, sync=True).sync
    with pytest.raises(ValueError, match="batch, instance, layer, none, got 'group'"):
        make_norm("group", 3)
