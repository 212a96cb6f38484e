"""The message against separate layers."""

import contextlib

import pytest
import torch
import torch.nn.functional as F

from puffin.ops import library, messages
from tests.conftest import TOLERANCE, relative
from tests.ops.processor import with_threads


def parameters(rows, inputs, outputs, dtype):
    """x, weight, bias; the values have a mean far from zero, where careless variances lose their digits."""

    def make(*shape):
        return torch.randn(*shape, dtype=dtype)

    return [p.requires_grad_() for p in (make(rows, inputs), make(outputs, inputs), make(outputs) + 30)]


def separate(x, weight, bias, slope):
    """The same by PyTorch's own layers."""
    y = F.leaky_relu(F.linear(x, weight, bias), slope)
    return y, y.mean(0), y.var(0, correction=0)


def compare_with_separate_layers(args, dtype):
    """Values, statistics, and the gradients of a random function of all of them."""
    rows, outputs = len(args[0]), len(args[1])
    directions = [torch.randn(rows, outputs, dtype=dtype), *torch.randn(2, outputs, dtype=dtype) * rows**0.5]
    results = []
    for function in (messages.message, separate):
        out = function(*args, 0.01)
        loss = sum((v * d).sum() for v, d in zip(out, directions, strict=True))
        results.append([*out, *torch.autograd.grad(loss, args)])
    tolerance = TOLERANCE[dtype] * 30  # the mean is about 30 deviations
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < tolerance


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows, inputs, outputs", [(7000, 60, 35), (50, 3, 17), (3, 1, 1), (5, 16, 64)])
def test_message_equals_separate_layers(rows, inputs, outputs, dtype, kernels):
    """Values, statistics and all gradients through each of them; several blocks of rows, tiles that are not full."""
    args = parameters(rows, inputs, outputs, dtype)
    with contextlib.nullcontext() if kernels else library.without_kernels():
        compare_with_separate_layers(args, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rows, inputs, outputs", [(70, 33, 65), (129, 65, 33), (41, 130, 70), (200, 1, 64), (90, 64, 2)]
)
def test_message_in_pieces_equals_separate_layers(rows, inputs, outputs, dtype):
    """More channels than a block of CUDA threads takes at once, and a last tile of rows that is not full. Breaks if a
    piece is left out, counted twice or padded with anything but zeros."""
    compare_with_separate_layers(parameters(rows, inputs, outputs, dtype), dtype)


def test_message_of_many_rows_equals_separate_layers():
    """More tiles of rows than blocks of CUDA threads. Breaks if a block forgets its statistics or its last tile."""
    compare_with_separate_layers(parameters(50_000, 1, 60, torch.float64), torch.float64)


def test_outliers_keep_the_digits_of_the_variance():
    """A first row far from the others, from which deviations must not be measured: float32 would lose five digits."""
    x = torch.randn(3000, 1)
    x[0] = 1000.0
    weight, bias = torch.ones(1, 1), torch.tensor([50.0])
    values, mean, variance = messages.message(x, weight, bias, 1.0)
    exact = (x + bias).double()
    assert relative(mean.double(), exact.mean(0)) < 1e-6 and relative(values.double(), exact) < 1e-6
    assert relative(variance.double(), exact.var(0, correction=0)) < 1e-5


def test_result_is_reproducible():
    """Bit for bit in a second call, though blocks run in another order: a sum in the order of arrival would differ."""
    args, results = parameters(3000, 20, 9, torch.float32), []
    for _ in range(2):
        out = messages.message(*args, 0.01)
        results.append([*out, *torch.autograd.grad(out.values.square().sum() + out.variance.sum(), args)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_rows():
    """An event selection may leave nothing: zero statistics, zero gradients."""
    args = parameters(0, 3, 2, torch.float64)
    out = messages.message(*args, 0.1)
    assert out.values.shape == (0, 2) and not out.mean.any() and not out.variance.any()
    assert not torch.autograd.grad(out.mean.sum() + out.variance.sum(), args[1])[0].any()


def test_gradcheck():
    """Numerical derivatives in float64."""
    args = parameters(9, 3, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda *a: tuple(messages.message(*a, 0.1)), args)


def test_operators_are_well_formed():
    """opcheck of both operators."""
    x, weight, bias = (p.detach() for p in parameters(60, 5, 4, torch.float64))
    torch.library.opcheck(torch.ops.puffin.message.default, (x, weight, bias, 0.1))
    y, mean, variance = torch.ops.puffin.message(x, weight, bias, 0.1)
    grad = torch.randn_like(y)
    args = (grad, y, x, weight, mean, torch.randn_like(mean), torch.randn_like(mean), 0.1)
    torch.library.opcheck(torch.ops.puffin.message_backward.default, args)


@pytest.mark.skipif(not library.loaded(), reason="PyTorch's own products do depend on threads; kernels not built")
def test_result_does_not_depend_on_threads():
    """Bit for bit with 1 and 3 threads."""
    args = parameters(10_000, 20, 30, torch.float32)

    def compute():
        out = messages.message(*args, 0.01)
        return [*out, *torch.autograd.grad(out.values.square().sum() + out.variance.sum(), args)]

    results = with_threads((1, 3), compute)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=False))


@pytest.mark.skipif(not library.loaded(), reason="the oracle trusts its caller; kernels not built")
def test_wrong_shapes_raise():
    """On every device; a kernel would read beyond the end."""
    x, weight, bias = parameters(6, 3, 2, torch.float64)
    for args in ((x[:, :2], weight, bias), (x, weight, bias[:1]), (x, weight.float(), bias)):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.message(*args, 0.1)
    args = [p.detach() for p in (x, weight, bias)]
    y, mean, _ = torch.ops.puffin.message(*args, 0.1)
    backward = [y, y, *args[:2], mean, mean, mean]
    for position, bad in (
        (0, y[:-1]),
        (1, y.float()),
        (2, args[0][:, :2]),
        (3, args[1][:1]),
        (4, mean[:1]),
        (6, mean[:1]),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.message_backward(*backward[:position], bad, *backward[position + 1 :], 0.1)
