"""Resolutions against distributions whose quantiles are known."""

import numpy as np
import pytest
import torch

from src.metrics.regression import DIRECTIONS, columns, regression_metrics


def test_widths_of_known_distributions():
    """Gaussian relative errors have a half width of one standard deviation; an angle's 68% quantile is read off."""
    g = torch.Generator().manual_seed(0)
    true = torch.tensor([100.0, 60.0, 0, 0], dtype=torch.float64).expand(20000, 1, 4)
    factor = 1 + 0.1 * torch.randn(20000, 1, 1, generator=g, dtype=torch.float64)
    metrics = regression_metrics(true * factor, true, 0.25)
    assert tuple(metrics) == columns(1) and metrics["loss"] == 0.25
    assert metrics["dpT"] == pytest.approx(0.1, rel=0.03) and metrics["dm"] == pytest.approx(0.1, rel=0.03)
    assert metrics["dPsi"] < 1e-9 and metrics["loss_E"] == pytest.approx(100 * 0.1 * (2 / np.pi) ** 0.5, rel=0.03)

    turn = torch.linspace(0, 1, 20000, dtype=torch.float64)
    turned = torch.stack([true[:, 0, 0], 60 * turn.cos(), 60 * turn.sin(), turn * 0], 1)[:, None]
    metrics = regression_metrics(turned, true, 0.0)
    assert metrics["dPsi"] == pytest.approx(0.68, abs=1e-3) and metrics["dR"] == pytest.approx(0.68, abs=1e-3)


def test_several_targets_are_numbered():
    """Each target has its own columns, in the order of the targets."""
    true = torch.rand(50, 2, 4, dtype=torch.float64) + torch.tensor([5.0, 0, 0, 0])
    predicted = true.clone()
    predicted[:, 1, 0] += 1
    metrics = regression_metrics(predicted, true, 0.0)
    assert tuple(metrics) == columns(2)
    assert metrics["loss_E_0"] == 0 and metrics["loss_E_1"] == pytest.approx(1)


def test_directions_of_numbered_metrics():
    """A sweep asks for the direction of what --best-by takes: of every target, whatever their number."""
    assert all(name in DIRECTIONS and DIRECTIONS[name] == -1 for name in ("dm", "dm_0", "loss_3d", "loss_3d_12"))
    for name in ("dn_0", "loss_E", "loss_E_0", "dm_x", "dm_0_1"):
        assert name not in DIRECTIONS
        with pytest.raises(KeyError):
            DIRECTIONS[name]
