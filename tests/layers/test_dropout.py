"""PairDropout keeps the mean, the rate and the gradient."""

import torch

from puffin.layers.dropout import PairDropout


def test_rate_mean_and_gradient():
    """0.3 of 10^6 ones vanish (5 sigma), the mean stays 1, and the gradient has the same mask."""
    x = torch.ones(1000, 1000, requires_grad=True)
    out = PairDropout(0.3)(x)
    assert abs(float((out == 0).float().mean()) - 0.3) < 5 * (0.21e-6) ** 0.5
    assert abs(float(out.detach().mean()) - 1) < 0.004
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_neighbours_are_independent():
    """The four decisions of one draw, and those of neighbouring draws, must not be correlated."""
    remains = (PairDropout(0.5)(torch.ones(1_000_000)) > 0).double() - 0.5
    for shift in (1, 2, 3, 4, 5):
        assert abs(float((remains[shift:] * remains[:-shift]).mean())) < 5 * 0.25 / 1000


def test_off():
    """No dropout in eval mode or at rate 0; odd sizes and empty features work."""
    x = torch.randn(7, 3)
    assert torch.equal(PairDropout(0.5).eval()(x), x) and torch.equal(PairDropout(0.0)(x), x)
    assert PairDropout(0.5)(x).shape == x.shape and PairDropout(0.5)(x[:0]).shape == (0, 3)


def test_follows_the_generator():
    """The same state of the generator gives the same mask: resumed runs depend on it."""
    layer, x = PairDropout(0.4), torch.ones(101, 3)
    state = torch.get_rng_state()
    first = layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first)


def test_half_precision_keeps_its_type_and_mean():
    """bfloat16 does not hold 1 / (1 - 0.05) = 1.0526: with the factor rounded to 1.0547, the mean of many values of
    different size would be 0.2% too large. Breaks if the factor is rounded before it multiplies."""
    x = torch.rand(1000, 1000).bfloat16()
    out = PairDropout(0.05)(x)
    assert out.dtype == torch.bfloat16
    remains = out != 0
    assert abs(float(out[remains].double().sum() / x[remains].double().sum()) * 0.95 - 1) < 2e-4
