"""Every operation of the two geometries against each other, and against the definition for one event."""

import pytest
import torch
from torch import nn

from puffin.layers.dense_pairs import DensePairs
from puffin.layers.packed_pairs import PackedPairs
from puffin.ops.embedding import Labels, Power
from tests.conftest import relative
from tests.layers.equivariance import events_of, geometry

N, C = 6, 3


@pytest.fixture(params=[False, True], ids=["plain", "weighted"])
def both(request):
    """The same event packed and dense, and random features of its nodes and pairs."""
    pairs = geometry([N])
    weights = torch.rand(N, dtype=torch.float64) if request.param else None
    packed = PackedPairs(pairs.index, pairs.multiplicity, weights)
    return packed, DensePairs(pairs.multiplicity, weights)


def nodes(*shape):
    return torch.randn(*shape, N, C, dtype=torch.float64)


def matrix(x, packed):
    """One packed feature of pairs as a matrix."""
    return events_of(x, "pairs", packed.index)[0]


@pytest.mark.parametrize("reduction", ["sum", "max", "min"])
def test_nodes_and_events(both, reduction):
    x = nodes()
    results = [g.to_nodes(g.reduce_nodes(x, reduction)).expand(N, C) for g in both]
    assert relative(results[0], results[1]) < 1e-14
    for g in both:
        assert relative(g.sum_nodes(x), x.sum(0, keepdim=True)) < 1e-14  # never weighted


def test_sums_and_extrema_of_pairs(both):
    packed, dense = both
    x = torch.randn(N * N, C, dtype=torch.float64)
    (_, got), (_, want) = packed.sums(x), dense.sums(matrix(x, packed))
    for a, b in zip(got, want, strict=True):
        assert relative(a, b) < 1e-14
    w = torch.ones(N).double() if packed.weights is None else packed.weights
    assert relative(want.rows, torch.einsum("ijc,j->ic", matrix(x, packed), w)) < 1e-14
    assert relative(packed.row_weight, dense.row_weight.expand(N, 1)) < 1e-14
    assert relative(packed.row_weight, w.sum().expand(N, 1)) < 1e-14
    for reduction in ("max", "min"):
        for a, b in zip(packed.extrema(x, reduction), dense.extrema(matrix(x, packed), reduction), strict=True):
            assert torch.equal(a, b)
    mean = matrix(x, packed).mean((0, 1))[None]
    for g, y in zip(both, (x, matrix(x, packed)), strict=True):
        assert relative(g.mean_of_pairs(y), mean) < 1e-13
        assert relative(g.to_pairs(mean).expand(y.shape), mean.expand(y.shape)) == 0


@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_maps_to_pairs(both, slope):
    packed, dense = both
    x, (u, v, w) = torch.randn(N * N, C, dtype=torch.float64), nodes(3)
    weight, weight_transposed = torch.randn(2, C, C, dtype=torch.float64)
    assert relative(matrix(packed.expand(u, v, w), packed), dense.expand(u, v, w)) < 1e-14
    for uvw in ((u, v, w), (u, v, None)):
        got = packed.mix(x, weight, weight_transposed, uvw, slope)
        want = dense.mix(matrix(x, packed), weight, weight_transposed, uvw, slope)
        assert relative(matrix(got, packed), want) < 1e-13


def test_each_pair_on_its_own(both):
    packed, dense = both
    x, weight, bias = torch.randn(N * N, C).double(), torch.randn(4, C).double(), torch.randn(4).double()
    got, want = packed.message(x, weight, bias, 0.1), dense.message(matrix(x, packed), weight, bias, 0.1)
    assert relative(matrix(got.values, packed), want.values) < 1e-13
    assert relative(got.mean, want.mean) < 1e-13 and relative(got.variance, want.variance) < 1e-13
    for a, b in zip(got.sums, want.sums, strict=True):
        assert relative(a, b) < 1e-13


@pytest.mark.parametrize("activation", [None, nn.LeakyReLU(0.1), nn.Identity(), nn.GELU()])
@pytest.mark.parametrize("signed", [True, False])
def test_embedding(both, signed, activation):
    """With label channels after each activation, and without."""
    packed, dense = both
    x, weight, bias = nodes(), torch.randn(5, C).double(), torch.randn(5).double()
    power = Power(torch.rand(5).double() + 0.1, 0.5, signed)
    labels = None if activation is None else Labels(*nodes(3), activation)
    got, want = (g.embed(left * right, weight, bias, power, labels) for g in both for left, right in [g.ends(x)])
    assert relative(matrix(got, packed), want) < 1e-13


def test_symmetric_features(both):
    """A function of the two ends, and its row sums."""
    packed, dense = both
    x = nodes()
    full = x[:, None] * x[None]
    for g in both:
        left, right = g.ends(x)
        half = left * right
        assert torch.equal(matrix(g.index.mirror(half), packed) if g is packed else half, full)
        assert relative(g.sum_symmetric_rows(half), full.sum(1)) < 1e-14


def test_soft_drop_cannot_be_traced(both):
    with pytest.raises(NotImplementedError, match="particle by particle"):
        both[1].soft_drop_multiplicity(torch.zeros(N, N, 1))
