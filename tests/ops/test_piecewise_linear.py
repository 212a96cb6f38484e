"""Sums of piecewise linear functions: the kernel against PyTorch's operations, derivatives, and inputs at the edges."""

import pytest
import torch

from puffin.ops import library
from puffin.ops.piecewise_linear import piecewise_linear
from tests.conftest import TOLERANCE, relative
from tests.ops.processor import with_threads

LOW, HIGH = -1.5, 1.0


def make(points: int, features: int, knots: int, channels: int, dtype=torch.float32) -> tuple:
    """Positions of which many lie outside of the knots, and values."""
    return torch.randn(points, features, dtype=dtype), torch.randn(features, knots, channels, dtype=dtype), LOW, HIGH


@pytest.mark.parametrize("channels", [1, 17, 64, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("points", [0, 1, 1200])
def test_kernel_equals_oracle(points, dtype, channels):
    """Breaks if a vector, a task or the last channels are left out, or if a knot of another feature is read."""
    args = make(points, 5, 9, channels, dtype)
    grad = torch.randn(points, channels, dtype=dtype)
    got = torch.ops.puffin.piecewise_linear(*args), *torch.ops.puffin.piecewise_linear_backward(grad, *args)
    want = library.oracle_of("piecewise_linear")(*args), *library.oracle_of("piecewise_linear_backward")(grad, *args)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and relative(a, b) < TOLERANCE[dtype]


def test_gradcheck():
    x, values, *knots = make(20, 3, 4, 5, torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, v: piecewise_linear(x, v, *knots), [x.requires_grad_(), values.requires_grad_()]
    )


@pytest.mark.parametrize("oracle", [False, True])
def test_knots_outside_and_nan(oracle):
    """At a knot the value is exact and the slope that of its right; outside the function is constant; nan stays nan."""
    x = torch.tensor([[0.0], [1.0], [2.0], [-3.0], [7.0], [torch.inf], [-torch.inf], [torch.nan]])
    values = torch.tensor([[[1.0], [3.0], [9.0]]])
    backward = torch.ops.puffin.piecewise_linear_backward, library.oracle_of("piecewise_linear_backward")
    forward = torch.ops.puffin.piecewise_linear, library.oracle_of("piecewise_linear")
    y = forward[oracle](x, values, 0.0, 2.0)[:, 0]
    assert y[:7].tolist() == [1, 3, 9, 1, 9, 9, 1] and y[7].isnan()
    slope = backward[oracle](torch.ones(7, 1), x[:7], values, 0.0, 2.0)[0][:, 0]
    assert slope.tolist() == [2, 6, 0, 0, 0, 0, 0]


@pytest.mark.skipif(not library.has_cpu_kernel(torch.zeros(1)), reason="CPU kernels not built")
def test_threads_do_not_change_a_bit():
    """Breaks if the runs of points that share a gradient depend on the number of threads."""
    args = make(9000, 3, 5, 33)
    grad = torch.randn(9000, 33)

    def run() -> list:
        return [torch.ops.puffin.piecewise_linear(*args), *torch.ops.puffin.piecewise_linear_backward(grad, *args)]

    first, *others = with_threads((1, 2, 3), run)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(3)}, "x: expected"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, "x: expected"),
        ({"values": torch.zeros(3, 4, 5)}, r"values: expected \(2, K > 1, C\)"),
        ({"values": torch.zeros(2, 1, 5)}, "values: expected"),
        ({"values": torch.zeros(2, 4, 5, dtype=torch.int64)}, "values: expected"),
        ({"values": torch.zeros(2, 4, 5, device="meta")}, "values: expected device cpu"),
        ({"high": 0.0}, "high: expected more than low"),
    ],
)
def test_bad_input(change, message):
    good = {"x": torch.zeros(3, 2), "values": torch.zeros(2, 4, 5), "low": 0.0, "high": 1.0}
    with pytest.raises(ValueError, match=message):
        piecewise_linear(**good | change)
