"""Pair primitives against loops over events, and their gradients."""

import contextlib
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from puffin.ops import library
from puffin.ops.pair_index import PairIndex
from puffin.ops.pairs import pair_expand, pair_extremum, pair_mix, pair_reduce, pair_sums
from tests.conftest import DEVICES, TOLERANCE, relative
from tests.ops.processor import with_threads

LENGTHS = [[3, 1, 0, 5], [1], [0], [], [7, 7]]


def index(lengths, device="cpu") -> PairIndex:
    """Pairs of events with these many nodes."""
    return PairIndex(torch.tensor(lengths, dtype=torch.long), torch.device(device))


def transposed(x, pairs):
    """x_ji at pair (i, j): the blocks of the layout, two of them swapped."""
    diagonal, upper, lower = pairs.blocks(x)
    return torch.cat([diagonal, lower, upper])


def matrices(x, pairs):
    """The n x n matrices of a pair feature, by the pairs' own row and column."""
    out, first = [], 0
    for n in pairs.lengths.tolist():
        matrix = x.new_full((n, n, x.shape[1]), float("nan"))
        in_event = (pairs.row >= first) & (pairs.row < first + n)
        matrix[pairs.row[in_event] - first, pairs.column[in_event] - first] = x[in_event]
        assert not matrix.isnan().any()  # every pair is there
        out.append(matrix)
        first += n
    return out


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_against_loops(lengths, dtype, device):
    """A wrong position, order or weight in any primitive breaks it."""
    pairs = index(lengths, device)
    x = torch.randn(pairs.num_pairs, 4, dtype=dtype, device=device)
    weights = torch.rand(pairs.num_nodes, dtype=dtype, device=device)
    events = weights.split(lengths)
    reduced, weighted = pair_reduce(x, pairs), pair_reduce(x, pairs, weights)
    ms = matrices(x, pairs)
    assert len(x) == sum(n * n for n in lengths)
    if not ms or not len(x):
        assert all(r.shape == (pairs.num_nodes, 4) for r in reduced)
        return
    tolerance = TOLERANCE[dtype]
    assert relative(reduced.diagonal, torch.cat([m.diagonal().t() for m in ms])) == 0
    assert relative(reduced.rows, torch.cat([m.sum(1) for m in ms])) < tolerance
    assert relative(reduced.columns, torch.cat([m.sum(0) for m in ms])) < tolerance
    assert (
        relative(weighted.rows, torch.cat([torch.einsum("ijc,j->ic", m, w) for m, w in zip(ms, events, strict=False)]))
        < tolerance
    )
    assert (
        relative(
            weighted.columns, torch.cat([torch.einsum("ijc,i->jc", m, w) for m, w in zip(ms, events, strict=False)])
        )
        < tolerance
    )
    for a, b in zip(matrices(transposed(x, pairs), pairs), ms, strict=False):
        assert torch.equal(a, b.transpose(0, 1))
    for largest in (True, False):
        rows, columns = pair_extremum(x, pairs, largest)
        full = [m for m in ms if len(m)]
        for got, dim in ((rows, 1), (columns, 0)):
            want = torch.cat([m.amax(dim) if largest else m.amin(dim) for m in full])
            assert torch.equal(got, want)

    u, v, w = torch.randn(3, pairs.num_nodes, 2, dtype=dtype, device=device)
    for m, a, b, c in zip(
        matrices(pair_expand(u, v, w, pairs), pairs), u.split(lengths), v.split(lengths), w.split(lengths), strict=False
    ):
        assert (
            m.numel() == 0 or relative(m, a[:, None] + b[None] + torch.diag_embed(c.t()).permute(1, 2, 0)) < tolerance
        )
    weight, weight_t = torch.randn(2, 4, 2, dtype=dtype, device=device)
    want = x @ weight + transposed(x, pairs) @ weight_t + pair_expand(u, v, w, pairs)
    assert relative(pair_mix(x, weight, weight_t, (u, v, w), pairs), want) < tolerance


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(weighted):
    """Numerical derivatives of every primitive in float64."""
    pairs = index([3, 1, 0, 2])
    x = torch.randn(pairs.num_pairs, 3, dtype=torch.float64, requires_grad=True)
    nodes = [torch.randn(pairs.num_nodes, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weight = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    node_weights = torch.rand(pairs.num_nodes, dtype=torch.float64) if weighted else None
    check = torch.autograd.gradcheck
    assert check(lambda a: tuple(pair_reduce(a, pairs, node_weights)), x)
    assert check(lambda u, v, w: pair_expand(u, v, w, pairs), nodes)
    assert check(lambda a, b, c, u, v, w: pair_mix(a, b, c, (u, v, w), pairs), [x, *weight, *nodes])
    assert check(lambda a, b, c, u, v: pair_mix(a, b, c, (u, v, None), pairs), [x, *weight, *nodes[:2]])


def test_reduce_and_expand_are_each_others_gradients():
    """<reduce(x), (w, u, v)> = <x, expand(u, v, w)> exactly, whatever the layout."""
    pairs = index([4, 2])
    x = torch.randn(pairs.num_pairs, 3, dtype=torch.float64)
    u, v, w = torch.randn(3, pairs.num_nodes, 3, dtype=torch.float64)
    r = pair_reduce(x, pairs)
    left = (r.rows * u).sum() + (r.columns * v).sum() + (r.diagonal * w).sum()
    assert abs(float(left - (x * pair_expand(u, v, w, pairs)).sum())) < 1e-12


@pytest.mark.parametrize("kernels", [True, False])
def test_sums_and_pairs_used_together(kernels):
    """The feature and its sums in one gradient, each alone, and weighted: what one pass adds up must be their sum."""
    pairs = index([4, 0, 2])
    x = torch.randn(pairs.num_pairs, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(pairs.num_nodes, dtype=torch.float64)

    def function(x, use_rows, w):
        y, sums = pair_sums(x, pairs, w)
        return y.square().sum() + (use_rows * sums.rows.exp().sum() if use_rows else 0)

    with contextlib.nullcontext() if kernels else library.without_kernels():
        for w in (None, weights):
            assert torch.autograd.gradcheck(partial(function, use_rows=2.0, w=w), x)
            assert torch.autograd.gradcheck(partial(function, use_rows=0.0, w=w), x)
            assert torch.autograd.gradcheck(lambda a, w=w: pair_sums(a, pairs, w)[1].diagonal, x)


def test_tied_extrema_share_the_gradient():
    """Two equal maxima get half each; taking the first would break the permutation symmetry of training."""
    pairs = index([2])  # pairs (0, 0), (1, 1), (0, 1), (1, 0)
    x = torch.tensor([[1.0], [0.0], [1.0], [2.0]], requires_grad=True)
    pair_extremum(x, pairs, True)[0].sum().backward()
    assert x.grad.flatten().tolist() == [0.5, 0.0, 0.5, 1.0]


def test_autocast_gives_bfloat16_and_close_numbers():
    """--amp bf16 must reach the pair products, forward and backward."""
    pairs = index([4, 3])
    x = torch.randn(pairs.num_pairs, 3, requires_grad=True)
    weights = torch.randn(2, 3, 2)
    nodes = tuple(torch.randn(3, pairs.num_nodes, 2))
    exact = pair_mix(x, *weights, nodes, pairs)
    with torch.autocast("cpu", torch.bfloat16):
        out = pair_mix(x, *weights, nodes, pairs)
    assert out.dtype == torch.bfloat16
    assert relative(out.float(), exact) < TOLERANCE[torch.bfloat16]
    out.float().sum().backward()
    assert x.grad.dtype == torch.float32


def test_wrong_number_of_rows():
    """A feature of another batch is refused by name."""
    with pytest.raises(ValueError, match=r"x: expected \(13, C\)"):
        pair_reduce(torch.zeros(12, 2), index([3, 2]))


# -- compiled kernels against the oracles ----------------------------------------------------------------------------


def arguments(lengths, dtype=torch.float64, channels=(5, 7), device="cpu"):
    """Inputs of the operators for events with these many nodes, by operator."""
    pairs = index(lengths, device)
    c, s = channels

    def make(*shape):
        return torch.randn(*shape, dtype=dtype, device=device, requires_grad=True)

    x, even, odd = make(pairs.num_pairs, c), make(c, s), make(c, s)
    u, v, w = (make(pairs.num_nodes, s) for _ in range(3))
    weights = torch.rand(pairs.num_nodes, dtype=dtype, device=device)
    where = (pairs.node_ptr, pairs.upper_ptr)
    return {
        "pair_reduce": (x, weights, *where, pairs.num_nodes),
        "pair_expand": (u, v, w, weights, make(pairs.num_pairs, s), *where, pairs.num_upper),
        "pair_mix": (x, even, odd, u, v, w, *where, 0.01),
    }


def outputs_and_gradients(op, args):
    """Outputs, and the gradients of a fixed function of them."""
    out = op(*args)
    out = out if isinstance(out, tuple) else (out,)
    leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    loss = sum((o * torch.linspace(-1, 2, o.numel(), dtype=o.dtype, device=o.device).view_as(o)).sum() for o in out)
    return [*out, *torch.autograd.grad(loss, leaves)]


def plain(name, args):
    """The same, pair by pair from their definition, through PyTorch's own derivatives."""
    node_ptr = next(a for a in args if isinstance(a, torch.Tensor) and a.dtype == torch.int64)
    pairs = index(node_ptr.diff().cpu().tolist(), node_ptr.device)
    i, j, n = pairs.row, pairs.column, pairs.num_nodes
    on_diagonal = (i == j)[:, None]

    def reduce(x, weights, *_):
        rows, columns = (x.new_zeros(n, x.shape[1]).index_add(0, a, x * weights[b, None]) for a, b in ((i, j), (j, i)))
        return x[:n], rows, columns

    def expand(u, v, w, weights, base, *_):
        return base + u[i] * weights[j, None] + v[j] * weights[i, None] + on_diagonal * w[i]

    def mix(x, even, odd, u, v, w, _, __, slope):
        swapped = transposed(x, pairs)
        out = (x + swapped) @ even + (x - swapped) @ odd + u[i] + v[j] + on_diagonal * w[i]
        return torch.nn.functional.leaky_relu(out, slope)

    return outputs_and_gradients({"pair_reduce": reduce, "pair_expand": expand, "pair_mix": mix}[name], args)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [(5, 7), (16, 64), (35, 60), (1, 1)])
@pytest.mark.parametrize("name", ["pair_reduce", "pair_expand", "pair_mix"])
def test_kernel_equals_oracle(name, channels, dtype, device):
    """Tiles that are not full, padded columns, empty and single-node events, and events larger than a group."""
    for lengths in ([3, 1, 0, 5, 40, 2], [70], [0], [], [1, 1]):
        args = arguments(lengths, dtype, channels, device)[name]
        got = outputs_and_gradients(getattr(torch.ops.puffin, name), args)
        for a, b in zip(got, plain(name, args), strict=True):
            assert a.shape == b.shape and relative(a, b) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [(33, 65), (65, 33), (130, 70), (1, 64), (64, 1), (61, 2)])
def test_mix_in_pieces_equals_oracle(channels, dtype, device):
    """More channels than a block of threads takes at once, pieces that are shorter than the others, a last tile that is
    not full. Breaks if a piece is left out, added twice or padded with anything but zeros."""
    for lengths in ([9, 1, 0, 13], [16]):
        args = arguments(lengths, dtype, channels, device)["pair_mix"]
        got = outputs_and_gradients(torch.ops.puffin.pair_mix, args)
        for a, b in zip(got, plain("pair_mix", args), strict=True):
            assert a.shape == b.shape and relative(a, b) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_mix_of_many_pairs_equals_oracle(device):
    """More tiles than blocks of threads on CUDA. Breaks if a block forgets its sums, its matrices or its last tile."""
    args = arguments([70] * 11, torch.float64, (64, 1), device)["pair_mix"]
    got = outputs_and_gradients(torch.ops.puffin.pair_mix, args)
    for a, b in zip(got, plain("pair_mix", args), strict=True):
        assert relative(a, b) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("device", DEVICES)
def test_mix_without_diagonal_term(device):
    """w = None equals w = 0, and u and v get the same gradients."""
    args = arguments([5, 2], device=device)["pair_mix"]
    without, zero = [*args[:5], None, *args[6:]], [*args[:5], torch.zeros_like(args[5]), *args[6:]]
    for a, b in zip(*(outputs_and_gradients(torch.ops.puffin.pair_mix, a) for a in (without, zero)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["pair_reduce", "pair_expand", "pair_mix"])
def test_result_is_reproducible(name, device):
    """Bit for bit in a second call, though blocks run in another order: a sum in the order of arrival would differ."""
    args = arguments([40, 1, 25], torch.float32, (35, 12), device)[name]
    for a, b in zip(*(outputs_and_gradients(getattr(torch.ops.puffin, name), args) for _ in range(2)), strict=True):
        assert torch.equal(a, b)


def test_operators_are_well_formed():
    """opcheck: schema, fake kernels, autograd registration."""
    for name, args in arguments([3, 1, 4]).items():
        torch.library.opcheck(getattr(torch.ops.puffin, name).default, args)


def test_compile_without_graph_breaks():
    """A function of the operators compiles whole and gives the same numbers."""
    args = arguments([3, 4])

    def function(x, even, odd, u, v, w, node_ptr, upper_ptr, slope):
        y = torch.ops.puffin.pair_mix(x, even, odd, u, v, w, node_ptr, upper_ptr, slope)
        return torch.ops.puffin.pair_reduce(y * 2, None, node_ptr, upper_ptr, u.shape[0])[1]

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert relative(compiled(*args["pair_mix"]), function(*args["pair_mix"])) < 1e-14


def test_faces_in_compiled_code_are_not_compiled_again_for_each_batch():
    """They break the graph (docs/kernels.md). Breaks if a batch of other sizes is compiled again, which PyTorch stops
    doing after eight, or if numbers or gradients differ from those of eager code."""
    counter = CompileCounterWithBackend("aot_eager")

    def function(x, weight, nodes, pairs):
        y = pair_mix(x * 2, weight, weight, (nodes * 3,) * 3, pairs).tanh()
        return pair_reduce(y, pairs).rows.square().sum() + pair_expand(nodes, nodes, nodes, pairs).square().sum()

    compiled, counts = torch.compile(function, backend=counter), []
    for lengths in ([3, 4], [5, 2, 2], [6, 6], [9, 1], [2, 8]):
        pairs = index(lengths)
        leaves = [torch.randn(n, 2, requires_grad=True) for n in (pairs.num_pairs, 2, pairs.num_nodes)]
        for a, b in zip(*(torch.autograd.grad(f(*leaves, pairs), leaves) for f in (compiled, function)), strict=True):
            torch.testing.assert_close(a, b)
        counts.append(counter.frame_count)
    assert 0 < counts[1] == counts[-1]


@pytest.mark.parametrize("name", ["pair_reduce", "pair_expand", "pair_mix"])
def test_result_does_not_depend_on_threads(name):
    """Bit for bit with 1 and 3 threads: a sum in the order of arrival would differ."""
    args = arguments([30, 45, 1, 60, 20] * 3, torch.float32)[name]
    results = with_threads((1, 3), lambda: outputs_and_gradients(getattr(torch.ops.puffin, name), args))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.skipif(not library.loaded(), reason="the oracle trusts its caller; kernels not built")
def test_kernels_refuse_what_does_not_fit():
    """Pointers that do not fit must raise, not read beyond the end."""
    args = list(arguments([3, 2])["pair_mix"])
    with pytest.raises(RuntimeError):
        torch.ops.puffin.pair_mix(*args[:7], args[7] + 1, *args[8:])


@pytest.mark.skipif(not library.loaded(), reason="the oracle trusts its caller; kernels not built")
@pytest.mark.parametrize("device", DEVICES)
def test_wrong_shapes_raise(device):
    """On every device, unlike wrong values of the pointers, which CUDA would have to wait for."""
    args = list(arguments([3, 2], device=device)["pair_mix"])
    for position, bad in (
        (0, args[0][:-1]),
        (0, args[0][:, :-1]),
        (1, args[1][:-1]),
        (2, args[2][:, :-1]),
        (3, args[3][:-1]),
        (3, args[3].float()),
        (4, args[4][:, :-1]),
        (5, args[5][:-1]),
        (6, args[6][:-1]),
        (7, args[7].int()),
        (8, 2.0),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.pair_mix(*args[:position], bad, *args[position + 1 :])
    y = torch.ops.puffin.pair_mix(*args).detach()
    backward = [y, y, *args[:3], *args[6:8], args[3].shape[0], args[8]]
    for position, bad in ((0, y[:-1]), (1, y.float()), (2, args[0][:, :-1]), (3, args[1][:, :-1]), (7, 4)):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.pair_mix_backward(*backward[:position], bad, *backward[position + 1 :])
