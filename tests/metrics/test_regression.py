"""Resolutions against distributions whose quantiles are known."""

import math

import numpy as np
import pytest
import torch

from puffin.losses.momenta import MOMENTUM_LOSSES
from puffin.metrics.regression import DIRECTIONS, RESPONSES, columns, regression_metrics


def test_widths_of_known_distributions():
    """Gaussian relative errors have a half width of one standard deviation; an angle's 68% quantile is read off."""
    g = torch.Generator().manual_seed(0)
    true = torch.tensor([100.0, 60.0, 0, 0], dtype=torch.float64).expand(20000, 1, 4)
    factor = 1 + 0.1 * torch.randn(20000, 1, 1, generator=g, dtype=torch.float64)
    metrics = regression_metrics(true * factor, true, 0.25)
    assert tuple(metrics) == columns(1) and metrics["loss"] == 0.25
    assert metrics["dpT"] == pytest.approx(0.1, rel=0.03) and metrics["dm"] == pytest.approx(0.1, rel=0.03)
    assert metrics["dPsi"] < 1e-9 and metrics["loss_E"] == pytest.approx(100 * 0.1 * (2 / np.pi) ** 0.5, rel=0.03)

    angle = torch.linspace(0, 1, 20000, dtype=torch.float64)
    rotated = torch.stack([true[:, 0, 0], 60 * angle.cos(), 60 * angle.sin(), angle * 0], 1)[:, None]
    metrics = regression_metrics(rotated, true, 0.0)
    assert metrics["dPsi"] == pytest.approx(0.68, abs=1e-3) and metrics["dR"] == pytest.approx(0.68, abs=1e-3)


def test_several_targets_are_numbered():
    """Each target has its own columns, in the order of the targets."""
    true = torch.rand(50, 2, 4, dtype=torch.float64) + torch.tensor([5.0, 0, 0, 0])
    predicted = true.clone()
    predicted[:, 1, 0] += 1
    metrics = regression_metrics(predicted, true, 0.0)
    assert tuple(metrics) == columns(2)
    assert metrics["loss_E_0"] == 0 and metrics["loss_E_1"] == pytest.approx(1)


def test_weights_are_repetitions():
    """An event of weight 3 counts as three events, one of weight 0 not at all, and only ratios of weights matter."""
    g = torch.Generator().manual_seed(1)
    true = torch.randn(401, 2, 4, generator=g) + torch.tensor([50.0, 5, 0, 0])
    predicted = true * (1 + 0.2 * torch.randn(401, 2, 1, generator=g)) + torch.randn(401, 2, 4, generator=g)
    times = torch.randint(0, 4, (401,), generator=g)
    weighted = regression_metrics(predicted, true, 0.0, times.float() / 4)
    again = [x.repeat_interleave(times, 0) for x in (predicted, true)]
    repeated = regression_metrics(*again, 0.0, torch.ones(len(again[0])))
    plain, even = regression_metrics(*again, 0.0), regression_metrics(predicted, true, 0.0)
    for name in columns(2):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-12), name
        assert weighted[name] == pytest.approx(plain[name], rel=0.02), name  # where quantiles lie between two values
    assert any(weighted[name] != pytest.approx(even[name], rel=0.02) for name in columns(2))


def test_directions_of_numbered_metrics():
    """A sweep needs the direction of every metric that --best-by accepts, of each of any number of targets."""
    assert all(name in DIRECTIONS and DIRECTIONS[name] == -1 for name in ("dm", "dm_0", "loss_3d", "loss_3d_12"))
    for name in ("dn_0", "loss_E", "loss_E_0", "dm_x", "dm_0_1"):
        assert name not in DIRECTIONS
        with pytest.raises(KeyError):
            DIRECTIONS[name]


def test_twenty_million_events(monkeypatch):
    """A split of any size. Breaks with torch.quantile, or if copies of the split fill the memory."""
    few = {name: MOMENTUM_LOSSES[name] for name in ("psi", "R", "pT")}
    monkeypatch.setattr("puffin.metrics.regression.MOMENTUM_LOSSES", few)  # quicker
    number = 20_000_000
    true = torch.tensor([100.0, 60.0, 0, 0]).expand(number, 1, 4)
    metrics = regression_metrics(true * 1.25, true, 0.0)
    assert metrics["dPsi"] == 0 and metrics["pT_response"] == pytest.approx(1.25) and metrics["dpT"] == 0


def test_bias_is_not_hidden():
    """A network that predicts almost nothing has a small dpT and dm, but not a small resolution.

    Breaks if the resolution is not relative to the median response."""
    true = torch.randn(2000, 1, 4, dtype=torch.float64) + torch.tensor([1000.0, 500, 0, 0])
    good = true * (1 + 0.1 * torch.randn(2000, 1, 1, dtype=torch.float64))
    numbers, biased = regression_metrics(good, true, 0.0), regression_metrics(good * 1e-3, true, 0.0)
    for name in ("pT", "m"):
        assert biased[f"d{name}"] < 0.01 * numbers[f"d{name}"] and numbers[f"{name}_response"] == pytest.approx(1, 0.01)
        assert biased[f"{name}_resolution"] == pytest.approx(numbers[f"{name}_resolution"], rel=1e-6)
        assert biased[f"{name}_response"] == pytest.approx(1e-3, rel=0.01)
    nothing = regression_metrics(torch.zeros_like(true), true, 0.0)
    assert nothing["pT_response"] == 0 and nothing["pT_resolution"] == math.inf


def test_new_columns_are_the_last():
    """Tables of earlier versions keep their columns, for several targets too."""
    assert columns(1)[:5] == ("loss", "dPsi", "dR", "dpT", "dm") and columns(1)[16:] == RESPONSES
    assert columns(2)[31] == "pT_response_0" and len(columns(2)) == 39


@pytest.mark.parametrize("size", [1e-35, 1e-44, 1e35])
def test_size_of_weights_does_not_matter(size):
    """Tiny and huge weights give the numbers of their ratios; weights of 0 give nan, and no exception."""
    true = torch.randn(50, 1, 4) + torch.tensor([50.0, 20, 0, 0])
    predicted, weights = true + torch.randn_like(true), torch.randint(0, 3, (50,)).float()
    expected = regression_metrics(predicted, true, 0.0, weights)
    assert regression_metrics(predicted, true, 0.0, weights * size) == pytest.approx(expected, rel=1e-6)
    none = regression_metrics(predicted, true, math.nan, weights * 0)
    assert all(map(math.isnan, none.values()))
