"""Messages whose batch norm is left to the next layer, against layers one after another."""

import copy

import pytest
import torch

from puffin.layers.aggregators import AggregatorOptions, Eq2to0, Eq2to1, Eq2to2
from puffin.layers.mlp import MLP, MessageNet
from puffin.layers.normalised import Normalised, as_tensor
from puffin.layers.packed_pairs import PackedPairs
from puffin.ops import library
from puffin.ops.pair_index import PairIndex
from tests.conftest import TOLERANCE, relative

PAIRS = PairIndex(torch.tensor([4, 0, 7]), torch.device("cpu"))
GEOMETRY = PackedPairs.of(PAIRS, torch.float64)


def message_and_layers():
    """A message network, and what it means: an MLP and a batch norm with the same weights."""
    message = MessageNet([5, 4, 3], "leakyrelu", "batch").double()
    with torch.no_grad():
        message.normlayer.weight.uniform_(0.5, 2), message.normlayer.bias.uniform_(-1, 1)
    separate = copy.deepcopy(message)
    return message, separate, lambda x: separate.normlayer(MLP.forward(separate, x))


@pytest.mark.parametrize("training", [True, False])
def test_message_equals_layers(training):
    """Values, gradients and running statistics, in training mode and, with statistics that have moved, in eval mode."""
    message, separate, layers = message_and_layers()
    x = torch.randn(PAIRS.num_pairs, 5, dtype=torch.float64)
    if not training:
        message(x, GEOMETRY), layers(x)
        message.eval(), separate.eval()
        with torch.no_grad():
            assert relative(as_tensor(message(x, GEOMETRY)), layers(x)) < 1e-12
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, want = message(a, GEOMETRY), layers(b)
    assert isinstance(got, Normalised) and relative(got.tensor(), want) < 1e-12
    (got.tensor() ** 3).sum().backward(), (want**3).sum().backward()
    assert relative(a.grad, b.grad) < 1e-10
    for (name, fused), reference in zip(message.named_parameters(), separate.parameters(), strict=False):
        assert relative(fused.grad, reference.grad) < 1e-10, name
    for fused, reference in zip(message.buffers(), separate.buffers(), strict=False):
        assert relative(fused.double(), reference.double()) < 1e-12


# IRC weights are for sums and means only
@pytest.mark.parametrize(
    ("config", "weighted"), [*((c, False) for c in ("s", "M", "sM", "sx", "N")), *((c, True) for c in ("s", "M", "sM"))]
)
@pytest.mark.parametrize("layer", [Eq2to2, Eq2to1, Eq2to0])
def test_layers_take_the_normalisation_in(layer, config, weighted):
    """Scale and shift folded into weights, or multiplied out for maxima: the same as from the features themselves."""
    aggregate = layer(3, 2, AggregatorOptions(config, activate_lin=False)).double()
    counts = PAIRS.counts[:, None].double().clamp_min(1)
    weights = torch.rand(PAIRS.num_nodes, dtype=torch.float64) if weighted else None
    geometry = PackedPairs(PAIRS, counts, weights)
    parts = [torch.randn(PAIRS.num_pairs, 3), torch.randn(3), torch.randn(3)]
    parts = [p.double().requires_grad_() for p in parts]
    normalised = Normalised(*parts, geometry.sums(parts[0])[1])
    got, want = (aggregate(x, geometry) for x in (normalised, normalised.tensor()))
    assert relative(got, want) < 1e-12
    direction = torch.randn_like(want)
    grads = [torch.autograd.grad((v * direction).sum(), parts) for v in (got, want)]
    assert all(relative(a, b) < 1e-11 for a, b in zip(*grads, strict=True))


half_tables = pytest.mark.skipif(
    not library.loaded() or library.EMULATED, reason="only the CPU library has kernels for bfloat16"
)


@half_tables
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("config", ["s", "M", "sMxN"])
@pytest.mark.parametrize("layer", [Eq2to2, Eq2to1, Eq2to0])
def test_autocast_stores_pairs_in_half(layer, config, training):
    """Under autocast pair features are bfloat16, all else is float32, and the results are those of float64. Breaks if a
    layer falls back to PyTorch's products, or rounds node features or normalisation to bfloat16."""
    message = MessageNet([5, 6], "leakyrelu", "batch").train(training)
    aggregate = layer(6, 3, AggregatorOptions(config, activate_lin=False, nobj_avg=5))
    geometry = PackedPairs.of(PAIRS, torch.float32)
    x = torch.randn(PAIRS.num_pairs, 5).bfloat16().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        values = message(x, geometry)
        got = aggregate(values, geometry)
    assert isinstance(values, Normalised)
    assert [t.dtype for t in (values.values, values.scale, values.shift)] == [torch.bfloat16] + [torch.float32] * 2
    assert got.dtype == (torch.bfloat16 if layer is Eq2to2 else torch.float32)
    direction = torch.randn(got.shape)
    grads = torch.autograd.grad((got * direction).sum(), [x, *message.parameters(), aggregate.coefs])
    assert all(g.dtype == torch.float32 for g in grads)
    message.double(), aggregate.double()
    wide = x.detach().double().requires_grad_()
    want = aggregate(message(wide, GEOMETRY), GEOMETRY)
    assert relative(got.double(), want) < TOLERANCE[torch.bfloat16]
    exact = torch.autograd.grad((want * direction).sum(), [wide, *message.parameters(), aggregate.coefs])
    assert relative(grads[-1].double(), exact[-1]) < TOLERANCE[torch.bfloat16]


@half_tables
@pytest.mark.parametrize("norm", ["none", "instance", "layer"])
def test_autocast_stores_pairs_in_half_with_other_norms(norm):
    """Networks whose message is not fused. Breaks if two dtypes meet in a product, or the result is far off."""
    message, aggregate = MessageNet([5, 6], "gelu", norm), Eq2to2(6, 3, AggregatorOptions("sx"))
    geometry = PackedPairs.of(PAIRS, torch.float32)
    x = torch.randn(PAIRS.num_pairs, 5)
    with torch.autocast("cpu", torch.bfloat16):
        got = aggregate(message(x, geometry), geometry)
    got.float().sum().backward()
    assert got.dtype == torch.bfloat16
    assert relative(got.float(), aggregate(message(x, geometry), geometry)) < TOLERANCE[torch.bfloat16]
