"""The embedding of pairs: kernel and composed operations against the definition, pair by pair."""

import contextlib

import pytest
import torch
from torch import nn

from puffin.ops import library
from puffin.ops.embedding import Labels, Power, pair_embed
from puffin.ops.pair_index import PairIndex
from puffin.ops.signed_power import plain_signed_power
from tests.conftest import TOLERANCE, relative
from tests.ops.processor import check_instruction_set, with_threads

LENGTHS = [[3, 1, 0, 5, 40, 2], [70], [0], [], [1, 1]]
# inputs, compressed channels, label channels: padded and whole vectors, several of them, and none
CHANNELS = [(1, 50, 10), (4, 3, 1), (1, 16, 0), (2, 37, 33), (3, 64, 16)]
SPECIAL = [0.0, -0.0, 1e-40, -1e-30, 1e-7, -0.5, 1.0, 3e7, -1e30, 3e38, float("inf"), -float("inf"), float("nan")]
needs_kernels = pytest.mark.skipif(
    not library.has_cpu_kernel(torch.zeros(1)), reason="without the CPU library the operations are composed"
)


def arguments(lengths, channels, dtype=torch.float64, offset=0.5, signed=True):
    """Arguments of `pair_embed`; all tensors need a gradient."""
    pairs = PairIndex(torch.tensor(lengths, dtype=torch.long), torch.device("cpu"))
    k, c, s = channels

    def make(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    exponent = (torch.rand(c, dtype=dtype) + 0.05).requires_grad_()
    nodes = [make(pairs.num_nodes, s) for _ in range(3)]
    x = make(pairs.num_nodes + pairs.num_upper, k)
    return x, make(c, k), make(c), Power(exponent, offset, signed), Labels(*nodes, nn.LeakyReLU(0.1)), pairs


def definition(x, weight, bias, power, labels, pairs):
    """The same for each pair, from the row of the pair (min(i, j), max(i, j))."""
    i, j, half = pairs.row, pairs.column, pairs.num_nodes + pairs.num_upper
    place = {(a, b): k for k, (a, b) in enumerate(zip(i[:half].tolist(), j[:half].tolist(), strict=True))}
    rows = [place[min(a, b), max(a, b)] for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    y = x[torch.tensor(rows, dtype=torch.long)] @ weight.t() + bias
    out = ((y.abs() + power.offset) ** power.exponent - 1) / power.exponent
    sums = labels.u[i] + labels.v[j] + (i == j)[:, None] * labels.w[i]
    return torch.cat([out * y.sign() if power.signed else out, labels.activation(sums)], 1)


def leaves(args):
    return [*args[:3], args[3].exponent, *args[4][:3]]


def with_gradients(function, args):
    """The table, and the gradients of a fixed function of it."""
    out = function(*args)
    loss = (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum()
    return [out, *torch.autograd.grad(loss, leaves(args), allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("channels", CHANNELS)
def test_equals_definition(channels, signed, dtype, kernels):
    """Padded channels, empty and single-node events, events larger than a group. Breaks if a mirrored row, a label of
    the diagonal or a part of a gradient is missing."""
    for lengths in LENGTHS:
        args = arguments(lengths, channels, dtype, signed=signed)
        with contextlib.nullcontext() if kernels else library.without_kernels():
            got = with_gradients(pair_embed, args)
        for a, b in zip(got, with_gradients(definition, args), strict=True):
            assert a.shape == b.shape and a.dtype == dtype
            assert relative(a, b) < (1e-4 if dtype == torch.float32 else TOLERANCE[dtype])


@pytest.mark.parametrize("signed", [True, False])
def test_gradients(signed):
    """Numerical derivatives in float64, of all seven tensors."""
    args = arguments([3, 0, 2], (2, 3, 2), signed=signed)

    def function(x, weight, bias, exponent, u, v, w):
        power, labels = args[3]._replace(exponent=exponent), args[4]._replace(u=u, v=v, w=w)
        return pair_embed(x, weight, bias, power, labels, args[5])

    assert torch.autograd.gradcheck(function, leaves(args))


def test_without_labels():
    """No label channels are those of width 0."""
    args = arguments([4, 2], (2, 5, 3))
    assert torch.equal(pair_embed(*args[:4], None, args[5]), pair_embed(*args)[:, :5])


def test_other_activations_are_composed():
    """Breaks if the kernel takes an activation for a leaky ReLU."""
    args = list(arguments([4, 2], (2, 5, 3)))
    args[4] = args[4]._replace(activation=nn.Tanh())
    for a, b in zip(with_gradients(pair_embed, args), with_gradients(definition, args), strict=True):
        assert relative(a, b) < TOLERANCE[torch.float64]


def compressed(values, exponents, offset, signed):
    """The channels of each value by the kernel: events of one node, and weights of 1."""
    pairs = PairIndex(torch.ones(len(values), dtype=torch.long), torch.device("cpu"))
    ones, zeros = torch.ones(len(exponents), 1), torch.zeros(len(exponents))
    dtype = values.dtype
    return pair_embed(values[:, None], ones.to(dtype), zeros.to(dtype), Power(exponents, offset, signed), None, pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("offset", [1.0, 1e-5])
def test_special_values(offset, signed, dtype):
    """Zeros, subnormal and huge numbers, infinities and NaN give what PyTorch gives; gradients where it has numbers."""
    exponents = torch.tensor([1e-6, 0.25, 1.0, 2.5, 40.0], dtype=dtype)
    results = []
    for function in (compressed, lambda x, a, *rest: plain_signed_power(x[:, None].expand(-1, len(a)), a, *rest)):
        x = torch.tensor(SPECIAL, dtype=dtype)
        finite = x[:9].clone().requires_grad_()
        gradient = torch.autograd.grad(function(finite, exponents[:2], offset, signed).sum(), finite)
        results.append((function(x, exponents, offset, signed), gradient[0]))
    (got, gradient), (want, expected) = results
    eps = torch.finfo(dtype).eps
    assert torch.equal(got.isfinite(), want.isfinite()) and torch.equal(got.isnan(), want.isnan())
    torch.testing.assert_close(got[:, 1:], want[:, 1:], rtol=4000 * eps, atol=8 * eps, equal_nan=True)
    torch.testing.assert_close(got[:, 0], want[:, 0], rtol=1e-5, atol=2e6 * eps, equal_nan=True)
    torch.testing.assert_close(gradient, expected, rtol=100 * eps, atol=8 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accuracy(dtype):
    """Logarithm, exponential and the operations around them: at most as many units in the last place as their
    roundings add up to. Breaks if a series is too short or a constant is wrong."""
    values = 10 ** torch.linspace(-8, 8, 20001, dtype=dtype)
    exponents = torch.tensor([1.0, 0.5, 0.1, 3.0], dtype=dtype)
    for offset in (1.0, 1e-5):
        got = compressed(values, exponents, offset, False).double()
        base = (values + offset).double()[:, None]
        t, eps = exponents.double() * base.log(), torch.finfo(dtype).eps
        if dtype == torch.float64:  # nothing is more exact: compare with another order of operations
            want = base**exponents
        else:
            want = t.exp()
        error = (got * exponents + 1 - want).abs() / want.clamp_min(1)
        assert (error < eps * (2 + 2 * t.abs())).all()


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_lower_instruction_sets_agree(level):
    """Breaks if the code for machines with fewer instructions gives other numbers."""
    files = [f"{__file__}::test_{name}" for name in ("accuracy", "special_values", "half_tables", "gradients")]
    files.append(f"{__file__}::test_equals_definition")
    check_instruction_set(level, files, "not False-dtype")


@needs_kernels
def test_half_tables():
    """Under autocast the table is the one of float32, rounded; a gradient of bfloat16 gives what its numbers give in
    float32. Breaks if the computation itself uses bfloat16."""
    args = arguments([7, 1, 0, 40], (2, 37, 10), torch.float32)
    exact = pair_embed(*args)
    with torch.autocast("cpu", torch.bfloat16):
        half = pair_embed(*args)
    assert half.dtype == torch.bfloat16 and torch.equal(half, exact.bfloat16())
    grad = torch.randn_like(half)
    for a, b in zip(
        torch.autograd.grad(half, leaves(args), grad),
        torch.autograd.grad(exact, leaves(args), grad.float()),
        strict=True,
    ):
        assert a.dtype == torch.float32 and torch.equal(a, b)


@needs_kernels
def test_result_does_not_depend_on_threads():
    """Bit for bit with 1 and 3 threads: a sum in the order of arrival would differ."""
    args = arguments([30, 45, 1, 60, 20] * 3, (2, 21, 5), torch.float32)
    results = with_threads((1, 3), lambda: with_gradients(pair_embed, args))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_result_does_not_depend_on_other_events():
    """Each event alone gives its rows bit for bit."""
    x, weight, bias, power, labels, pairs = arguments([5, 3], (2, 21, 5), torch.float32)
    together = pair_embed(x, weight, bias, power, labels, pairs)
    alone = PairIndex(torch.tensor([3]), torch.device("cpu"))
    rows = pairs.event_of_pair[: len(x)] == 1
    nodes = labels._replace(**{name: getattr(labels, name)[5:] for name in "uvw"})
    got = pair_embed(x[rows], weight, bias, power, nodes, alone)
    assert torch.equal(got, together[pairs.event_of_pair == 1])


def test_wrong_inputs_raise():
    """Inputs of another batch are refused by name."""
    x, *rest = arguments([3, 2], (2, 4, 1))
    with pytest.raises(ValueError, match=r"x: expected \(9, 2\), got \(8, 2\)"):
        pair_embed(x[:-1], *rest)


@needs_kernels
def test_kernel_refuses_what_does_not_fit():
    """Breaks if an argument of another shape or dtype is read beyond its end."""
    x, weight, bias, power, labels, pairs = arguments([3, 2], (2, 4, 1))
    args = [x, weight, bias, power.exponent, *labels[:3], pairs.node_ptr, pairs.upper_ptr, 1.0, True, 0.1]
    grad = torch.zeros(13, 5, dtype=torch.float64)
    for position in range(9):
        for bad in (args[position][:-1], args[position].float()):
            wrong = [*args[:position], bad, *args[position + 1 :]]
            with pytest.raises(RuntimeError):
                torch.ops.puffin.pair_embed(*wrong, False)
            with pytest.raises(RuntimeError):
                torch.ops.puffin.pair_embed_backward(grad, *wrong, True)
    for bad in (grad[:-1], grad[:, 1:], grad.float()):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.pair_embed_backward(bad, *args, True)
    for offset, slope in ((0.0, 0.1), (1.0, 1.5)):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.pair_embed(*args[:9], offset, True, slope, False)
