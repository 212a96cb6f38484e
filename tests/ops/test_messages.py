"""The fused message against separate layers."""

import pytest
import torch
import torch.nn.functional as F

from src.ops import library, messages
from tests.conftest import TOLERANCE, relative


def parameters(rows, inputs, outputs, dtype):
    """x, weight, bias, gain, shift; the values have a mean far from zero, where careless variances lose their digits."""
    make = lambda *shape: torch.randn(*shape, dtype=dtype)  # noqa: E731
    all_ = [make(rows, inputs), make(outputs, inputs), make(outputs) + 30, make(outputs), make(outputs)]
    return [p.requires_grad_() for p in all_]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows, inputs, outputs", [(7000, 60, 35), (50, 3, 17), (3, 1, 1), (5, 16, 64)])
def test_message_norm_equals_separate_layers(rows, inputs, outputs, dtype):
    """Values, statistics and all gradients; several blocks of rows, tiles that are not full."""
    args = parameters(rows, inputs, outputs, dtype)
    out = messages.message_norm(*args, 0.01, 1e-5)
    y = F.leaky_relu(F.linear(*args[:3]), 0.01)
    want = F.batch_norm(y, None, None, *args[3:], True, 0.1, 1e-5)
    tolerance = TOLERANCE[dtype] * 30  # the mean is about 30 deviations
    assert relative(out.values, want) < tolerance
    assert relative(out.mean, y.mean(0)) < tolerance and relative(out.variance, y.var(0, correction=0)) < tolerance
    direction = torch.randn_like(want)
    got, expected = (torch.autograd.grad((v * direction).sum(), args) for v in (out.values, want))
    largest = max(float(g.abs().max()) for g in expected)  # that of the bias may vanish
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).abs().max()) < tolerance * 30 * largest


def test_gradcheck():
    """Numerical derivatives in float64."""
    args = parameters(9, 3, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda *a: messages.message_norm(*a, 0.1, 1e-3).values, args)


def test_operators_are_well_formed():
    """opcheck of both operators."""
    x, weight, bias, gain, _ = (p.detach() for p in parameters(60, 5, 4, torch.float64))
    torch.library.opcheck(torch.ops.puffin.message.default, (x, weight, bias, 0.1))
    y, mean, variance = torch.ops.puffin.message(x, weight, bias, 0.1)
    grad, inverse = torch.randn_like(y), torch.rsqrt(variance + 1e-5)
    torch.library.opcheck(torch.ops.puffin.message_backward.default, (grad, y, x, weight, mean, inverse, gain, 0.1))


@pytest.mark.skipif(not library.loaded(), reason="PyTorch's own products do depend on threads; kernels not built")
def test_result_does_not_depend_on_threads():
    """Bit for bit with 1 and 3 threads."""
    args = parameters(10_000, 20, 30, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            out = messages.message_norm(*args, 0.01, 1e-5)
            results.append([*out, *torch.autograd.grad(out.values.square().sum(), args)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.skipif(not library.loaded(), reason="the oracle trusts its caller; kernels not built")
def test_kernels_refuse_what_does_not_fit():
    """Wrong shapes must raise, not read beyond the end."""
    x, weight, bias, *_ = parameters(6, 3, 2, torch.float64)
    for args in ((x[:, :2], weight, bias), (x, weight, bias[:1]), (x, weight.float(), bias)):
        with pytest.raises(RuntimeError):
            torch.ops.puffin.message(*args, 0.1)
