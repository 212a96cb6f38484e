"""Quantiles of splits of any size."""

import math

import numpy as np
import pytest
import torch

from puffin.metrics.quantiles import quantile, quantiles


def test_twenty_million_values():
    """Any number of values, with and without weights. Breaks with torch.quantile, which takes 2^24 at most."""
    values = torch.arange(20_000_000, dtype=torch.float64)
    assert quantiles(values, (0.25, 0.75)) == pytest.approx([4999999.75, 14999999.25], abs=1e-6)
    assert quantile(values, 0.5, torch.ones(())[None].expand(len(values))) == 9999999


def test_both_ways_agree(monkeypatch):
    """Small and large splits have the same quantiles, to the last bits."""
    values = torch.randn(1001, dtype=torch.float64)
    few = quantiles(values, (0.16, 0.5, 0.68))
    monkeypatch.setattr("puffin.metrics.quantiles.TORCH_LIMIT", 1000)
    assert quantiles(values, (0.16, 0.5, 0.68)) == pytest.approx(few, rel=1e-14)
    assert few == np.quantile(values.numpy(), (0.16, 0.5, 0.68)).tolist()


@pytest.mark.parametrize("weights", [None, [1e-35, 3e-35, 0.0], [1e35, 3e35, 0.0], [5e-324, 15e-324, 0.0]])
def test_size_of_weights_does_not_matter(weights):
    """Weights of any size count by their ratios."""
    values = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    assert quantile(values, 0.5, given) == 2.0


def test_no_quantile():
    """Without values or weights, or with a value that is not a number, there is none; no exception ends the run."""
    values = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for found in (
        quantile(values[:0], 0.5),
        quantile(values, 0.5, torch.zeros(2)),
        quantile(torch.tensor([1.0, math.nan], dtype=torch.float64), 0.5),
    ):
        assert math.isnan(found)
