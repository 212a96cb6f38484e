"""The maps of nodes of an equivariant layer, and its factorised coefficients: kernels against the formula."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from puffin.ops import library
from puffin.ops.equivariant_nodes import EventNodes, Map, equivariant_nodes
from puffin.ops.low_rank import low_rank
from tests.conftest import TOLERANCE, relative
from tests.ops.processor import with_threads
from tests.ops.samples import samples

NAMES = ["equivariant_nodes", "equivariant_nodes_backward", "low_rank", "low_rank_backward"]
# several groups of events, some empty, and one event that is a group of its own
SIZES = {"some": (7, 0, 4), "many": (0, 40, 1, 3, 0, 90, 200, 17, 55, 60, 0), "empty": (0, 0), "none": ()}

MAPS = {
    "one target": (Map(0, 0), Map(0, 1, 0, 1), Map(0, 4, 1, 0, 2)),
    "of events": (Map(0, 4, 0, 2), Map(0, 3, -1, 0, 1), Map(-1, 0)),
    "of values": (Map(2, 0), Map(1, 0, 1), Map(0, 0), Map(2, 3, 0, 1), Map(0, 3)),
    "twice the same": (Map(1, 2, 0), Map(1, 2, 1), Map(0, 2, 0)),
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_kernel_equals_oracle(name, dtype, sizes):
    """Breaks if a map goes to another target, an event reads another one, or a sum leaves a group out."""
    args = samples(dtype, SIZES[sizes])[name]
    got, want = (tree_leaves(f(*args)) for f in (getattr(torch.ops.puffin, name), library.oracle_of(name)))
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and relative(a, b) < TOLERANCE[dtype]


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("channels, width", [(3, 2), (33, 17)])
def test_each_table_equals_oracle(maps, channels, width):
    """One target, event quantities alone, values of nodes alone, two maps of the same pair; with one or three
    quantities, more channels than a vector has, and no weights."""
    table, sizes = MAPS[maps], torch.tensor([5, 0, 150, 1])
    quantities = tuple(torch.randn(156, channels) for _ in range(1 if maps == "of values" else 3))
    shared = torch.randn(len(table), channels, width), torch.randn(channels, 2)
    nodes = EventNodes(torch.tensor([0, *sizes.cumsum(0)]), sizes.clamp_min(1)[:, None].float(), None)
    normalisation, bias = (torch.randn(channels), torch.randn(channels)), torch.randn(width)
    got = equivariant_nodes(quantities, normalisation, *shared, (bias, None), nodes, table, False, 9.0)
    numbers = [number for m in table for number in m]
    args = (
        quantities,
        *normalisation,
        *shared,
        bias,
        None,
        None,
        nodes.multiplicity,
        nodes.node_ptr,
        numbers,
        False,
        9.0,
    )
    want = library.oracle_of("equivariant_nodes")(*args)[0]
    assert len(want) == sum(x is not None for x in got[:3])
    for a, b in zip(got, want, strict=False):
        assert a.shape == b.shape and relative(a, b) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(weighted):
    """All inputs, through all results."""
    quantities, *shared, bias, diagonal_bias, weights, multiplicity, ptr, numbers, pairs, nbar = samples(torch.float64)[
        "equivariant_nodes"
    ]
    table = tuple(Map(*numbers[k : k + 5]) for k in range(0, len(numbers), 5))
    nodes = EventNodes(ptr, multiplicity, weights if weighted else None)

    def function(scale, shift, coefficients, alphas, bias, diagonal_bias, *quantities):
        given = quantities, (scale, shift), coefficients, alphas, (bias, diagonal_bias), nodes, table, pairs, nbar
        return tuple(equivariant_nodes(*given))

    inputs = [x.requires_grad_() for x in (*shared, bias, diagonal_bias, *quantities)]
    assert torch.autograd.gradcheck(function, inputs)


def test_low_rank_gradcheck():
    inputs = [x.requires_grad_() for x in samples(torch.float64)["low_rank"]]
    assert torch.autograd.gradcheck(low_rank, inputs)


@pytest.mark.parametrize("name", NAMES[:2])
def test_threads_do_not_change_a_bit(name):
    """Breaks if a group of events, or the order of a sum, depends on the number of threads."""
    args = samples(torch.float32, SIZES["many"])[name]
    results = with_threads((1, 2, 3), lambda: tree_leaves(getattr(torch.ops.puffin, name)(*args)))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_batch_mates_do_not_change_a_bit():
    """An event alone must have the bits that it has in a batch."""
    table, sizes, make = MAPS["one target"], torch.tensor([9, 33, 5]), torch.randn
    quantities, coefficients = [make(47, 4) for _ in range(3)], make(3, 4, 6)
    rest = make(4, 2), (make(6), None)

    def run(parts, sizes):
        nodes = EventNodes(torch.tensor([0, *sizes.cumsum(0)]), sizes[:, None].float(), None)
        return equivariant_nodes(tuple(parts), None, coefficients, *rest, nodes, table, False, 9.0).u

    alone = [run(x, n[None]) for *x, n in zip(*(q.split([9, 33, 5]) for q in quantities), sizes, strict=True)]
    assert torch.equal(torch.cat(alone), run(quantities, sizes))


@pytest.mark.skipif(not library.loaded() or library.EMULATED, reason="the kernels are not loaded")
@pytest.mark.parametrize("position", range(10))
def test_kernel_refuses_other_shapes(position):
    """Breaks if memory behind a tensor that is too small is read."""
    args = list(samples()["equivariant_nodes"])
    args[position] = args[position][:-1]
    with pytest.raises(RuntimeError, match="expected"):
        torch.ops.puffin.equivariant_nodes(*args)


@pytest.mark.skipif(not library.loaded() or library.EMULATED, reason="the kernels are not loaded")
@pytest.mark.parametrize(
    "bad", [(3, 0, -1, 0, 0), (0, 5, -1, 0, 0), (0, 0, 2, 0, 0), (-2, 0, -1, 0, 0), (0, -1, 0, 0, 0)]
)
def test_kernel_refuses_maps_that_do_not_exist(bad):
    args = list(samples()["equivariant_nodes"])
    args[10] = [*args[10][:-5], *bad]
    with pytest.raises(RuntimeError, match="maps: expected"):
        torch.ops.puffin.equivariant_nodes(*args)
