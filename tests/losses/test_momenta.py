"""Momentum losses against hand-made cases, and their invariances."""

import math

import pytest
import torch

from puffin.losses.momenta import MOMENTUM_LOSSES, angle, delta_r, mass, momentum_loss


def momenta(n, seed=0):
    """Massive momenta (n, 1, 4), float64."""
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(n, 1, 3, generator=g, dtype=torch.float64) * 50
    return torch.cat([(p.square().sum(-1, keepdim=True) + 80**2).sqrt(), p], -1)


def test_known_values():
    """Two momenta that differ in one component, a quarter turn, a jump of the azimuth at pi."""
    p, q = torch.tensor([[5.0, 3, 0, 0], [5.0, 0, 3, 0]], dtype=torch.float64)
    values = {name: float(f(p, q)) for name, f in MOMENTUM_LOSSES.items()}
    assert values["m"] == values["E"] == values["pT"] == 0 and values["psi"] == pytest.approx(math.pi / 2)
    assert values["3d"] == values["4d"] == pytest.approx(18**0.5) and values["R"] == pytest.approx(math.pi / 2)
    assert values["inv"] == pytest.approx(18) and values["m2"] == 0 and values["col3"] == pytest.approx(9)
    assert values["col"] == pytest.approx((25**2 - 16**2) ** 0.5)
    a, b = (
        torch.tensor([10.0, math.cos(t), math.sin(t), 0.3], dtype=torch.float64)
        for t in (math.pi - 0.01, 0.01 - math.pi)
    )
    assert float(delta_r(a, b)) == pytest.approx(0.02)
    assert float(mass(torch.tensor([1.0, 2, 0, 0]))) == pytest.approx(-(3**0.5))
    tiny = torch.tensor([1.0, 1.0, 1e-9, 0], dtype=torch.float64)
    assert float(angle(tiny, torch.tensor([1.0, 1, 0, 0], dtype=torch.float64))) == pytest.approx(
        1e-9
    )  # arccos would give 0


@pytest.mark.parametrize("name", MOMENTUM_LOSSES)
def test_no_loss_without_a_difference(name):
    """Equal momenta lose nothing (but for the regularisation of col), and the gradient is finite there."""
    p = momenta(7).requires_grad_()
    loss = MOMENTUM_LOSSES[name](p, p.detach().clone())
    assert loss.shape == (7, 1) and float(loss.detach().abs().max()) < 2e-3
    loss.sum().backward()
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("name", ["inv", "m", "m2", "col"])
def test_invariant_losses(name):
    """A boost of both momenta changes nothing in these; it does change the others."""
    p, q = momenta(5), momenta(5, seed=1)
    c, s = math.cosh(0.7), math.sinh(0.7)
    boost = torch.tensor([[c, 0, 0, s], [0, 1, 0, 0], [0, 0, 1, 0], [s, 0, 0, c]], dtype=torch.float64)
    before, after = (MOMENTUM_LOSSES[name](a, b) for a, b in ((p, q), (p @ boost, q @ boost)))
    assert torch.allclose(before, after, rtol=1e-9)
    assert not torch.allclose(MOMENTUM_LOSSES["E"](p, q), MOMENTUM_LOSSES["E"](p @ boost, q @ boost), rtol=1e-3)


def test_terms_add_up():
    """The published default by hand."""
    p, q = momenta(4), momenta(4, seed=1)
    want = 0.05 * (mass(p) - mass(q)).abs() + 0.01 * (p - q)[..., 1:].norm(dim=-1)
    assert torch.allclose(momentum_loss(p, q, {"m": 0.05, "3d": 0.01}), want)
