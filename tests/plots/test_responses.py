"""Histograms of errors: what lies outside is marked, and a split of any size can be drawn."""

import math

import pytest
import torch
from matplotlib.figure import Figure

from puffin.metrics.classification import Roc
from puffin.plots.jets import draw_rejections, rejection_band
from puffin.plots.responses import ERRORS, draw_responses, outside


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_jets_outside_are_marked():
    """A network whose jets all lie below the range has an empty histogram and the mark "100.0% below".

    Breaks if such jets are put into the first bin, where they look like a narrow distribution."""
    true = torch.randn(200, 4) + torch.tensor([100.0, 50, 0, 0])
    axes = Figure().subplots(1, 3)
    draw_responses(axes, {"sum": true * 1.01, "this network": true * 0.01}, true, "")
    for ax in axes[:2]:
        assert texts_of(ax) == ["\u25c0 100.0% below"]
        reference, network = (patch.get_data().values for patch in ax.patches)
        assert network.sum() == 0 and reference.sum() == 200
        assert "median of predicted / true 0.010" in ax.get_legend().get_texts()[1].get_text()
    assert texts_of(axes[2]) == []


def test_fractions_outside():
    """Infinite errors are outside, those that are not numbers nowhere; small fractions are not rounded to 0."""
    errors = torch.tensor([-9.0, -0.5, 0.5, 1.0, math.inf, math.nan, 0.0, 0.0])
    assert outside(errors, (-1, 1)) == (0.125, 0.125)
    assert outside(errors[:0], (-1, 1)) == (0, 0)


def test_twenty_million_jets():
    """The legend needs quantiles of the whole split. Breaks with torch.quantile, which takes 2^24 values at most."""
    errors = torch.linspace(0, 1, 20_000_000, dtype=torch.float64)
    texts = [panel.describe(errors) for panel in ERRORS[1:]]
    assert texts == [
        "median of predicted / true 1.500, half of 16-84% / median 0.227",
        "median 0.5000, 68% below 0.6800",
    ]


@pytest.mark.parametrize("efficiency", [0.5, 0.02])
def test_band_of_the_rejection(efficiency):
    """The true rejection is within the band in about 68% of repeated test sets. Breaks with the number of all jets."""
    number, repeats = 400, 4000
    passed = torch.distributions.Binomial(number, torch.tensor(efficiency)).sample((repeats,))
    measured = (passed / number)[passed > 0].numpy()
    low, high = rejection_band(measured, number)
    covered = ((low <= 1 / efficiency) & (1 / efficiency <= high)).mean()
    assert 0.6 < covered < 0.76 and (low <= 1 / measured).all() and (1 / measured <= high).all()


def test_curve_of_millions_of_points_is_drawn():
    """Matplotlib refuses lines of some millions of points. Breaks if a curve is not thinned."""
    signal = torch.linspace(0, 1, 2_000_000).numpy()
    figure = Figure()
    axes = figure.subplots()
    draw_rejections(axes, [Roc(signal**3, signal, 1 - signal)], [10**6])
    assert len(axes.lines[0].get_xdata()) <= 20_003
    figure.canvas.draw()
