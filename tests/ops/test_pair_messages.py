"""The message on pairs against its two parts: `message`, whose values are then summed by `pair_sums`."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from puffin.ops import library
from puffin.ops.messages import message
from puffin.ops.pair_index import PairIndex
from puffin.ops.pair_messages import PairMessage, pair_message
from puffin.ops.pairs import pair_sums
from tests.conftest import TOLERANCE, relative
from tests.ops.processor import check_instruction_set, with_threads

# single nodes, empty events, tiles of 48 pairs that end within a row, and several groups of events
LENGTHS = [[3, 1, 0, 5], [1], [0, 0], [40, 0, 33, 6], [0, 1, 0, 1, 12, 1, 50, 0]]
needs_kernels = pytest.mark.skipif(not library.loaded() or library.EMULATED, reason="kernels not built")


def index(lengths: list[int]) -> PairIndex:
    return PairIndex(torch.tensor(lengths, dtype=torch.long), torch.device("cpu"))


def parameters(pairs: PairIndex, inputs: int, outputs: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """x, weight, bias."""
    shapes = ((pairs.num_pairs, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def in_two_parts(x, weight, bias, slope, pairs, weights=None) -> PairMessage:
    values, mean, variance = message(x, weight, bias, slope)
    values, sums = pair_sums(values, pairs, weights)
    return PairMessage(values, mean, variance, sums)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("inputs, outputs", [(35, 60), (3, 1), (5, 17), (16, 64)])
def test_equals_its_two_parts(inputs, outputs, lengths, dtype, weighted):
    """All results, and all gradients of a random function of them. Breaks if a sum goes to another node, a pair and its
    transpose are exchanged, or a gradient of the sums is left out."""
    pairs = index(lengths)
    args = parameters(pairs, inputs, outputs, dtype)
    weights = torch.rand(pairs.num_nodes, dtype=dtype) if weighted else None
    results, directions = [], None
    for function in (pair_message, in_two_parts):
        out = tree_leaves(function(*args, 0.1, pairs, weights))
        directions = directions or [torch.randn_like(v) for v in out]
        loss = sum((v * d).sum() for v, d in zip(out, directions, strict=True))
        results.append([*out, *torch.autograd.grad(loss, args)])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 10 * TOLERANCE[dtype]


def test_only_sums_are_used():
    """The last layer of a classifier reads no values: their gradient is None. Breaks if the kernel reads it."""
    pairs, gradients = index([6, 2]), []
    args = parameters(pairs, 3, 5, torch.float64)
    for function in (pair_message, in_two_parts):
        sums = function(*args, 0.1, pairs).sums
        gradients.append(torch.autograd.grad(sums.rows.square().sum() + sums.diagonal.sum(), args))
    assert all(relative(a, b) < 1e-12 for a, b in zip(*gradients, strict=True))


def test_events_do_not_see_each_other():
    """The values and sums of an event are bit for bit those of the event alone."""
    pairs, alone = index([7, 30, 4]), index([30])
    x, weight, bias = (p.detach() for p in parameters(pairs, 6, 9, torch.float32))
    own = pairs.event_of_pair == 1
    got, want = pair_message(x, weight, bias, 0.1, pairs), pair_message(x[own], weight, bias, 0.1, alone)
    assert torch.equal(got.values[own], want.values)
    for a, b in zip(got.sums, want.sums, strict=True):
        assert torch.equal(a[7:37], b)


def test_gradcheck():
    """Numerical derivatives in float64, IRC-safe weights included."""
    pairs = index([3, 1])
    args, weights = parameters(pairs, 3, 2, torch.float64), torch.rand(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *a: tuple(tree_leaves(pair_message(*a, 0.1, pairs, weights))), args)


def test_values_far_from_zero_keep_their_variance():
    """Breaks if squares are added up without an origin: float32 would lose five digits."""
    pairs = index([40, 20])
    x, weight, bias = parameters(pairs, 4, 3, torch.float32)
    got = pair_message(x, weight, bias + 300, 0.1, pairs)
    exact = got.values.double().var(0, correction=0)
    assert relative(got.variance.double(), exact) < 1e-5


@needs_kernels
def test_result_does_not_depend_on_threads():
    """Bit for bit with 1 and 3 threads: the groups of events are the same for any number of them."""
    pairs = index([40, 1, 60, 25, 70])
    args = parameters(pairs, 20, 30, torch.float32)

    def compute():
        out = tree_leaves(pair_message(*args, 0.01, pairs))
        return [*out, *torch.autograd.grad(sum(v.square().sum() for v in out), args)]

    results = with_threads((1, 3), compute)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_kernels
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_instruction_sets_agree(level):
    """The tests of values above, with the code for machines that lack the instructions of this one."""
    check_instruction_set(level, [__file__], "parts or used or zero")


@needs_kernels
def test_wrong_shapes_raise():
    """A kernel would read beyond the end."""
    pairs = index([3, 2])
    x, weight, bias = (p.detach() for p in parameters(pairs, 4, 2, torch.float64))
    where = (pairs.node_ptr, pairs.upper_ptr)
    good = [x, weight, bias, 0.1, torch.rand(5).double(), *where, 5]
    for position, bad in ((0, x[:-1]), (1, weight[:, 1:]), (2, bias[:1]), (4, good[4][:4]), (5, where[1]), (7, 4)):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.pair_message(*good[:position], bad, *good[position + 1 :])
    y, mean, _, *sums = torch.ops.puffin.pair_message(*good)
    backward = [y, y, x, weight, mean, mean, mean, *sums, good[4], *where, 0.1]
    for position, bad in ((0, y[:-1]), (1, y.float()), (4, mean[:1]), (7, sums[0][:4]), (9, sums[2].float())):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.pair_message_backward(*backward[:position], bad, *backward[position + 1 :])
