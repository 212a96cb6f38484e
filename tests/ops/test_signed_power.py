"""The signed power: derivatives, blocks of rows, and the version for exporters."""

import pytest
import torch

from puffin.ops.signed_power import plain_signed_power, signed_power


@pytest.mark.parametrize("signed", [False, True])
def test_gradients(signed):
    """Numerical derivatives in float64, in x and in the exponent."""
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    exponent = (torch.rand(3, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a: signed_power(x, a, 0.5, signed), (x, exponent))


@pytest.mark.parametrize("signed", [False, True])
def test_equals_plain_version(signed):
    """Bit for bit, and gradients of more rows than one block as PyTorch derives them."""
    x = (torch.randn(5000, 3, dtype=torch.float64) * 10).requires_grad_()
    exponent = torch.tensor([0.01, 0.3, 1.2], dtype=torch.float64, requires_grad=True)
    got, want = (f(x, exponent, 1.0, signed) for f in (signed_power, plain_signed_power))
    assert torch.equal(got, want)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (x, exponent)) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_no_rows():
    assert signed_power(torch.zeros(0, 3), torch.ones(3), 1.0, True).shape == (0, 3)
