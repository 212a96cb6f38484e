"""Tables of bfloat16: every operator against float64 arithmetic on the same numbers, in every instruction set."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from puffin.ops import library, messages, pairs
from puffin.ops.pair_index import PairIndex
from tests.ops.processor import check_instruction_set, with_threads
from tests.ops.samples import samples

HALF = torch.bfloat16
TABLES = {
    "message": (0,),
    "message_backward": (0, 1, 2),
    "pair_message": (0,),
    "pair_message_backward": (0, 1, 2),
    "pair_reduce": (0,),
    "pair_expand": (4,),
    "pair_mix": (0,),
    "pair_mix_backward": (0, 1, 2),
}
# Largest difference relative to the largest entry, or to 1, the size of the inputs, where a sum cancels. Both operands
# and the result are rounded, each by at most 2^-9 of its value; a variance, or a sum of two terms, has twice that.
TOLERANCE = 2**-6
CHANNELS = [(1, 1), (3, 1), (1, 3), (35, 60), (60, 35), (65, 16), (16, 65), (64, 2), (130, 33)]
LENGTHS = {"odd": [3, 1, 0, 5, 2], "one": [1], "none": [0, 0], "several groups": [40, 0, 33, 6]}

pytestmark = pytest.mark.skipif(library.EMULATED, reason="only the CPU library has kernels for bfloat16")
needs_kernels = pytest.mark.skipif(not library.loaded(), reason="kernels not built")


def arguments(name: str, channels=(5, 4), lengths=(7, 0, 4)) -> tuple:
    """Arguments of an operator with tables of bfloat16."""
    index = PairIndex(torch.tensor(lengths, dtype=torch.long), torch.device("cpu"))
    c, s = channels
    nodes, total, where = index.num_nodes, index.num_pairs, (index.node_ptr, index.upper_ptr)

    def make(*shape):
        return torch.randn(shape)

    x, y, even, odd = make(total, c), make(total, s), make(c, s), make(c, s)
    args = {
        "pair_reduce": (x, torch.rand(nodes), *where, nodes),
        "pair_expand": (*make(3, nodes, s), torch.rand(nodes), y, *where, index.num_upper),
        "pair_mix": (x, even, odd, *make(3, nodes, s), *where, 0.1),
        "pair_mix_backward": (make(total, s), y, x, even, odd, *where, nodes, 0.1),
        "message": (x, make(s, c), make(s) + 2, 0.1),
        "message_backward": (make(total, s), y, x, make(s, c), *make(3, s), 0.1),
        "pair_message": (x, make(s, c), make(s) + 2, 0.1, torch.rand(nodes), *where, nodes),
        "pair_message_backward": (
            *(make(total, s), y, x, make(s, c), *make(3, s)),
            *(*make(3, nodes, s), torch.rand(nodes), *where, 0.1),
        ),
    }[name]
    return tuple(a.to(HALF) if k in TABLES[name] else a for k, a in enumerate(args))


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest entry of b or to 1."""
    a, b = a.detach(), b.detach()
    return float((a.double() - b).abs().max() / b.abs().max().clamp_min(1)) if a.numel() else 0.0


def operator(name: str):
    return getattr(torch.ops.puffin, name)


def in_float64(name: str, args: tuple) -> list[torch.Tensor]:
    """The result of the oracle on the same numbers in float64."""
    wide = tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, args)
    return tree_leaves(library.oracle_of(name)(*wide))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", TABLES)
def test_operator_equals_float64(name, channels, lengths):
    """Odd and even widths, tiles that are not full, empty events. Breaks if the word that ends an odd row holds a
    number of the next, a last row without a partner is not 0, or sums are rounded to bfloat16."""
    args = arguments(name, channels, LENGTHS[lengths])
    got, want = tree_leaves(operator(name)(*args)), in_float64(name, args)
    assert [g.dtype for g in got] == [g.dtype for g in tree_leaves(library.oracle_of(name)(*args))]
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and error(a, b) < TOLERANCE


@pytest.mark.parametrize("name", TABLES)
def test_neighbours_of_nan_are_untouched(name):
    """A NaN or infinity in one event reaches no table row of another. Breaks if a product reads beyond the end of an
    odd row, where it multiplies by 0."""
    args = list(arguments(name, (3, 5), (3, 4)))
    rows = PairIndex(torch.tensor([3, 4]), torch.device("cpu"))
    first = rows.event_of_pair == 0
    clean = tree_leaves(operator(name)(*args))
    for k in TABLES[name]:
        args[k] = args[k].clone()
        args[k][first] = torch.tensor([torch.nan, torch.inf, -torch.inf] * 2, dtype=HALF)[: args[k].shape[1]]
    for dirty, other in zip(tree_leaves(operator(name)(*args)), clean, strict=True):
        if len(dirty) == len(first):
            assert dirty[first].isnan().any() and torch.equal(dirty[~first], other[~first])


@needs_kernels
def test_rounding_to_nearest_even():
    """Every bit pattern of the upper half with several lower halves, through an operator that only rounds."""
    upper = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    upper = upper[(upper & 0x7F80) != 0]  # without subnormal numbers, which some instructions replace by 0
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (upper * 2**16 + lower).view(torch.float32)[None]
        index = PairIndex(torch.ones(1, dtype=torch.long), torch.device("cpu"))
        zero = torch.zeros_like(x)
        # pair_expand adds u to the base; -0 is the base that leaves every number as it is
        got = torch.ops.puffin.pair_expand(
            x, -zero, None, None, -zero.to(HALF), index.node_ptr, index.upper_ptr, index.num_upper
        )
        want = x.to(HALF)
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got[~got.isnan()].view(torch.int16), want[~want.isnan()].view(torch.int16))


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0])
def test_ties_at_zero(slope):
    """The derivative of the activation at exactly 0 is the slope, as in PyTorch."""
    x, weight, bias = torch.zeros(5, 3, dtype=HALF), torch.randn(2, 3), torch.zeros(2)
    y, mean, _ = torch.ops.puffin.message(x, weight, bias, slope)
    assert not y.any()
    grad = torch.ones_like(y)
    _, _, sums = torch.ops.puffin.message_backward(grad, y, x, weight, mean, mean, mean, slope)
    assert torch.allclose(sums, torch.full((2,), 5 * slope))


def test_statistics_are_those_of_the_stored_values():
    """A constant column has variance 0, though bfloat16 does not hold its value: the norm divides by its root."""
    x = torch.ones(500, 1, dtype=HALF)
    y, mean, variance = torch.ops.puffin.message(x, torch.full((1, 1), 1.003), torch.zeros(1), 0.1)
    assert mean == y[0].float() and variance == 0


def outputs_and_gradients(function, args, directions):
    """Values and gradients of a fixed linear function of them."""
    leaves = [a.clone().requires_grad_() for a in args]
    out = function(*leaves)
    loss = sum((o.double() * d).sum() for o, d in zip(out, directions, strict=True))
    return [*out, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("kernels", [True, False])
def test_gradients_of_the_message(kernels, monkeypatch):
    """Values, statistics and gradients of the face against float64 autograd."""

    def function(*a):
        return messages.message(*a, 1.0)  # no kink, at which rounding would choose another slope

    args = [torch.randn(300, 35).to(HALF), torch.randn(60, 35) / 6, torch.randn(60)]
    directions = [torch.randn(300, 60).double(), *torch.randn(2, 60).double() * 300**0.5]
    want = outputs_and_gradients(function, [a.double() for a in args], directions)
    if not kernels:
        monkeypatch.setattr(library, "_state", {})
    got = outputs_and_gradients(function, args, directions)
    assert [g.dtype for g in got] == [HALF, torch.float32, torch.float32, HALF, torch.float32, torch.float32]
    for a, b in zip(got, want, strict=True):
        assert error(a, b) < 2 * TOLERANCE


@needs_kernels
def test_gradients_of_pairs():
    """Sums and mix, one after the other, against float64 autograd: tables get bfloat16, everything else float32."""
    index = PairIndex(torch.tensor([9, 0, 4]), torch.device("cpu"))

    def function(x, direct, transposed, u, v, w):
        x, sums = pairs.pair_sums(x, index)
        out = pairs.pair_mix(x, direct, transposed, (u + sums.rows @ direct, v, w), index)
        return out, sums.columns

    nodes = [torch.randn(index.num_nodes, 6) for _ in range(3)]
    args = [torch.randn(index.num_pairs, 5).to(HALF), torch.randn(5, 6), torch.randn(5, 6), *nodes]
    directions = [torch.randn(index.num_pairs, 6).double(), torch.randn(index.num_nodes, 5).double()]
    want = outputs_and_gradients(function, [a.double() for a in args], directions)
    got = outputs_and_gradients(function, args, directions)
    assert [g.dtype for g in got] == [HALF, torch.float32, HALF, *[torch.float32] * 5]
    for a, b in zip(got, want, strict=True):
        assert error(a, b) < 2 * TOLERANCE


@needs_kernels
@pytest.mark.parametrize("name", TABLES)
def test_wrong_types_raise(name):
    """Only tables may be bfloat16, and all of them are: a kernel would read beyond the end."""
    good = arguments(name)
    for k, value in enumerate(good):
        if isinstance(value, torch.Tensor):
            for dtype in {torch.float32, torch.float64, HALF, torch.float16} - {value.dtype}:
                if (name, k, dtype) == ("pair_reduce", 0, torch.float32):
                    continue  # a table of float32 with weights of float32
                if TABLES[name] == (k,) and dtype == torch.float32:
                    continue
                with pytest.raises(RuntimeError):
                    operator(name)(*good[:k], value.to(dtype), *good[k + 1 :])


@needs_kernels
@pytest.mark.parametrize("name", TABLES)
def test_result_does_not_depend_on_threads(name):
    """Bit for bit with 1 and 3 threads."""
    args = arguments(name, (35, 12), (40, 1, 60, 25, 70))
    results = with_threads((1, 3), lambda: tree_leaves(operator(name)(*args)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", TABLES)
def test_fake_kernels_describe_the_results(name):
    """Breaks if a fake kernel states another dtype than the kernel: compiled code then reads half of a number."""
    args = arguments(name)
    results = tree_leaves(operator(name)(*args))
    fakes = tree_leaves(operator(name)(*tree_map_only(torch.Tensor, lambda x: x.to("meta"), args)))
    assert [(x.shape, x.dtype) for x in fakes] == [(x.shape, x.dtype) for x in results]


@needs_kernels
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "avx512bf16"])
def test_other_instruction_sets_agree(level):
    """The tests of values above, with the code for other machines than this one, as far as it can run it."""
    check_instruction_set(level, [__file__], "float64 or nan or rounding or ties or stored")


def test_every_operator_of_tables_is_here():
    """Breaks if a new operator of tables is missing in the tests above; two have tests of their own."""
    of_tables = {name for name in samples() if name.startswith(("pair_", "message"))}
    assert of_tables - {"pair_embed", "pair_embed_backward", "pair_blocks"} == set(TABLES)
