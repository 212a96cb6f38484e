"""The four aggregators: equivariance, their definition by loops over pairs, and the table of letters."""

import pytest
import torch

from puffin.layers.aggregators import Eq1to2, Eq2to0, Eq2to1, Eq2to2
from puffin.layers.dense_pairs import DensePairs
from puffin.layers.equivariant_maps import AggregatorOptions
from puffin.layers.normalised import Normalised
from puffin.layers.packed_pairs import PackedPairs
from puffin.settings import letters
from puffin.settings.letters import LETTER_NAMES, Letter
from tests.conftest import relative
from tests.layers.equivariance import BatchMates, PairLayer, Permutations, assert_equivariant, events_of, geometry

RANKS = {
    Eq1to2: ("nodes", "pairs"),
    Eq2to2: ("pairs", "pairs"),
    Eq2to1: ("pairs", "nodes"),
    Eq2to0: ("pairs", "events"),
}
CONFIGS = [*LETTER_NAMES, "sMxn"]


class Expanded(torch.nn.Module):
    """The label channels of an Eq1to2, expanded to pairs as the embedding does."""

    def __init__(self, layer: Eq1to2):
        super().__init__()
        self.layer = layer

    def forward(self, x, geometry):
        u, v, w, activation = self.layer(x, geometry)
        return activation(geometry.expand(u, v, w))


def make(layer, config: str, **options) -> torch.nn.Module:
    """Make a layer whose biases and exponents are not zero, which would hide mistakes."""
    made = layer(3, 2, AggregatorOptions(config, nobj_avg=4, **options)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Expanded(made) if layer is Eq1to2 else made


@pytest.mark.parametrize("group", [Permutations(), BatchMates()], ids=["permutations", "batch-mates"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("layer", RANKS)
def test_equivariance(layer, config, group):
    """Breaks if a map reads the order of the nodes, or another event."""
    assert_equivariant(PairLayer(make(layer, config), *RANKS[layer]), group)


@pytest.mark.parametrize("activate_agg", [False, True])
@pytest.mark.parametrize("factorize", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
def test_equivariance_of_the_options(diagonal, factorize, activate_agg):
    """The same with each option of Eq2to2."""
    options = {"diagonal": diagonal, "factorize": factorize, "activate_agg": activate_agg}
    for group in (Permutations(), BatchMates()):
        assert_equivariant(PairLayer(make(Eq2to2, "M", activation="sigmoid", **options), "pairs", "pairs"), group)


def test_a_layer_that_reads_the_order_is_seen():
    """The helper must fail for a layer that adds the number of each node."""
    wrong = PairLayer(lambda x, g: x + torch.arange(len(x), dtype=x.dtype)[:, None], "nodes", "nodes")
    with pytest.raises(AssertionError, match="permutation of nodes"):
        assert_equivariant(wrong, Permutations())
    with pytest.raises(AssertionError, match="each event alone"):
        assert_equivariant(PairLayer(lambda x, g: x - x.mean(0), "nodes", "nodes"), BatchMates())
    with pytest.raises(AssertionError, match="control"):
        assert_equivariant(PairLayer(lambda x, g: torch.ones_like(x), "nodes", "nodes"), Permutations())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("config", [*CONFIGS, "sm"])
@pytest.mark.parametrize("layer", RANKS)
def test_dense_equals_packed(layer, config, weighted):
    """The matrix of one event must give what the packed table gives; weights are for sums and means."""
    if weighted and set(config) - set("smSM"):
        config = "S"
    aggregate, (takes, returns) = make(layer, config), RANKS[layer]
    pairs = geometry([6])
    weights = torch.rand(6, dtype=torch.float64) if weighted else None
    pairs = type(pairs)(pairs.index, pairs.multiplicity, weights)
    x = torch.randn(6 if takes == "nodes" else 36, 3, dtype=torch.float64)
    dense = aggregate(events_of(x, takes, pairs.index)[0], DensePairs(pairs.multiplicity, weights))
    expected = events_of(aggregate(x, pairs), returns, pairs.index)[0]
    assert relative(dense.reshape(expected.shape), expected) < 1e-12


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("factorize", [False, True])
@pytest.mark.parametrize("config", ["s", "M", "SmMs"])
@pytest.mark.parametrize("layer", RANKS)
def test_operator_equals_plain_path(layer, config, factorize, weighted, diagonal, monkeypatch):
    """The compiled maps of nodes against plain PyTorch: results and gradients of inputs and parameters.

    Breaks if the table of a layer names another map, exponent or divisor than the plain path takes."""
    takes, aggregate = RANKS[layer][0], make(layer, config, factorize=factorize, diagonal=diagonal)
    if takes == "nodes" and not diagonal:
        return  # Eq1to2 writes the diagonal
    pairs = geometry([6, 0, 1, 9])
    nodes = pairs.index.num_nodes
    weights = torch.rand(nodes, dtype=torch.float64) if weighted else None
    pairs = PackedPairs(pairs.index, pairs.multiplicity + 0.5, weights)
    x = torch.randn(nodes if takes == "nodes" else pairs.index.num_pairs, 3, dtype=torch.float64, requires_grad=True)
    scale, shift = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    results = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(PackedPairs, "has_node_kernel", lambda self, x: False)
        y = aggregate(x if takes == "nodes" else Normalised(x, scale, shift, pairs.sums(x)[1]), pairs)
        wanted = [x, *([] if takes == "nodes" else [scale, shift]), *aggregate.parameters()]
        results.append([y, *torch.autograd.grad(y.square().sum(), wanted)])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-11


def reduce_plainly(config: str, rows: torch.Tensor, nbar: float) -> torch.Tensor:
    """Aggregate rows (n, n, C) over j as docs/MATHEMATICS_PELICAN.md, section 3, defines each letter."""
    n = len(rows)
    return {
        "s": lambda: rows.sum(1) / nbar,
        "m": lambda: rows.mean(1),
        "x": lambda: rows.amax(1) - torch.tensor(n).double().log(),
        "n": lambda: rows.amin(1) + torch.tensor(n).double().log(),
    }[config]()


@pytest.mark.parametrize("config", "smxn")
def test_row_map_by_definition(config):
    """Of Eq2to1, keep the coefficients of the row aggregate alone, as identity: the result is the definition."""
    layer = Eq2to1(2, 2, AggregatorOptions(config, nobj_avg=4, activate_lin=False)).double()
    with torch.no_grad():
        layer.coefs.zero_()
        layer.coefs[:, :, 1] = torch.eye(2)  # maps: diagonal, rows, columns, trace, total
    pairs = geometry([3, 5])
    x = torch.randn(34, 2, dtype=torch.float64)
    expected = torch.cat([reduce_plainly(config, event, 4) for event in events_of(x, "pairs", pairs.index)])
    assert relative(layer(x, pairs), expected) < 1e-12


def maps_of_pairs(t: torch.Tensor) -> list[torch.Tensor]:
    """The 15 maps of Eq2to2 for one event t (n, n, C), in the order of the published coefficients, with plain sums."""
    n = len(t)
    delta = torch.eye(n, dtype=t.dtype)[:, :, None]
    diagonal, rows, columns = t.diagonal().t(), t.sum(1), t.sum(0)
    trace, total = diagonal.sum(0), t.sum((0, 1))
    of_row, of_column = (lambda x: x[:, None].expand(n, n, -1)), (lambda x: x[None].expand(n, n, -1))
    maps = [t, t.transpose(0, 1), delta * of_row(diagonal), of_column(diagonal), of_row(diagonal)]
    maps += [delta * of_row(columns), of_column(columns), of_row(columns)]
    maps += [delta * of_row(rows), of_column(rows), of_row(rows)]
    return [*maps, trace.expand(n, n, -1), delta * trace, total.expand(n, n, -1), delta * total]


@pytest.mark.parametrize("number", range(15))
def test_each_map_by_definition(number):
    """Keep the coefficients of one map of Eq2to2 alone, as identity; any other map in its place breaks it."""
    layer = Eq2to2(2, 2, AggregatorOptions("s", nobj_avg=1, activate_lin=False)).double()
    with torch.no_grad():
        layer.coefs.zero_()
        layer.coefs[:, :, number] = torch.eye(2)
    pairs = geometry([3, 5])
    x = torch.randn(34, 2, dtype=torch.float64)
    expected = [maps_of_pairs(event)[number] for event in events_of(x, "pairs", pairs.index)]
    for found, event in zip(events_of(layer(x, pairs), "pairs", pairs.index), expected, strict=True):
        assert relative(found, event) < 1e-12


def test_a_new_letter_is_one_entry(monkeypatch):
    """A letter that is added to the table works in all layers, packed and dense, and passes the check."""
    with pytest.raises(ValueError, match="letters smxnSMXN"):
        make(Eq2to2, "q")
    monkeypatch.setitem(letters.LETTERS, "q", Letter("max", divide_by="n", add_log_n=2))
    for layer in RANKS:
        assert_equivariant(PairLayer(make(layer, "qQ"), *RANKS[layer]), Permutations())
        test_dense_equals_packed(layer, "Q", False)
