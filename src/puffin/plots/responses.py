"""Histograms of the errors of predicted momenta."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from puffin.losses.momenta import angle
from puffin.metrics.quantiles import quantile
from puffin.metrics.regression import by_event, mass_error, pt_error, response
from puffin.plots.style import NETWORK, REFERENCE, legend_below

BINS = 60


class Error(NamedTuple):
    """A panel: its title, label and range, the error (N,) of momenta (N, 4), and what the legend says of errors."""

    title: str
    label: str
    limits: tuple[float, float]
    error: Callable[[Tensor, Tensor], Tensor]
    describe: Callable[[Tensor], str]


def _describe_response(errors: Tensor) -> str:
    found = response(errors)
    return f"median of predicted / true {found.median:.3f}, half of 16-84% / median {found.resolution:.3f}"


def _describe_angle(errors: Tensor) -> str:
    return f"median {quantile(errors, 0.5):.4f}, 68% below {quantile(errors, 0.68):.4f}"


ERRORS = (
    Error("mass", "relative error, (predicted - true) / true mass", (-0.6, 0.6), mass_error, _describe_response),
    Error(
        "transverse momentum", "relative error, (predicted - true) / true pT", (-0.4, 0.4), pt_error, _describe_response
    ),
    Error("direction", "angle to the true momentum [rad]", (0.0, 0.3), angle, _describe_angle),
)


class Outside(NamedTuple):
    """Fractions of events below and above the range of a histogram; events whose error is nan are in neither."""

    below: float
    above: float


def outside(errors: Tensor, limits: tuple[float, float]) -> Outside:
    """Count what a histogram does not show, errors (N,)."""
    number = max(len(errors), 1)
    return Outside(int((errors < limits[0]).sum()) / number, int((errors > limits[1]).sum()) / number)


def draw_responses(axes: Sequence, estimates: dict[str, Tensor], true: Tensor, name: str) -> None:
    """Draw histograms of the errors of mass, pT and direction, of estimates (N, 4) by name, to three axes.

    The last estimate is that of the network. Events outside the range are not in the histogram: their fractions are
    written at its edges, with arrows. true (N, 4); name: added to the titles."""
    colours = [REFERENCE] * (len(estimates) - 1) + [NETWORK]
    for ax, panel in zip(axes, ERRORS, strict=True):
        for row, ((label, p), colour) in enumerate(zip(estimates.items(), colours, strict=True)):
            errors = by_event(panel.error, p, true)
            counts = torch.histc(errors[errors.isfinite()], BINS, *panel.limits)
            edges = torch.linspace(*panel.limits, BINS + 1)
            text = f"{label}:\n{panel.describe(errors)}"
            ax.stairs(counts.numpy(), edges.numpy(), color=colour, lw=1.6, label=text)
            _mark_outside(ax, outside(errors, panel.limits), row, colour)
        ax.set(xlabel=panel.label, ylabel="jets", title=f"Response: {panel.title}{name}", xlim=panel.limits)
        ax.margins(y=0.05)
        ax.set_ylim(0, ax.get_ylim()[1] * (1.06 + 0.06 * len(estimates)))  # room for the fractions outside
        legend_below(ax)
        ax.grid(alpha=0.3)


def _mark_outside(ax, fractions: Outside, row: int, colour: str) -> None:
    """Write the fractions of events outside the range at its edges; nothing for 0."""
    edges = ((fractions.below, 0.01, "left", "\u25c0 {} below"), (fractions.above, 0.99, "right", "{} above \u25b6"))
    for fraction, x, side, text in edges:
        if fraction:
            style = {"ha": side, "va": "top", "color": colour, "fontsize": 6, "transform": ax.transAxes}
            ax.text(x, 0.98 - 0.06 * row, text.format(f"{fraction:.1%}" if fraction >= 0.001 else "< 0.1%"), **style)
