"""Panels that compare several runs: each draws the curves of all methods to one or two axes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from puffin.metrics.calibration import Reliability
from puffin.metrics.classification import Roc
from puffin.plots.jets import rejection_band
from puffin.plots.style import NETWORK, REFERENCE, class_colour, integer_epochs, legend_below

EFFICIENCIES = np.linspace(0.01, 1, 200)
SCORE_BINS = 40


@dataclass(frozen=True)
class Curve:
    """A line of a panel: values y (N,) at x (N,), and their errors (N,), or None.

    method: number of the method, which chooses the colour; label: "" for a line that the legend leaves out."""

    x: Sequence[float]
    y: Sequence[float]
    method: int = 0
    label: str = ""
    dashed: bool = False
    error: Sequence[float] | None = None


def draw_curves(axes, curves: Sequence[Curve], **labels) -> None:
    """Draw lines, with error bars where they have errors. labels: of the axes, as for `axes.set`."""
    for curve in curves:
        line, marker = "--" if curve.dashed else "-", "o" if len(curve.x) < 30 else None
        style = {"color": class_colour(curve.method), "lw": 1.5, "marker": marker, "ms": 3, "capsize": 2}
        axes.errorbar(curve.x, curve.y, curve.error, ls=line, label=curve.label or None, **style)
    axes.set(**labels)
    axes.grid(alpha=0.3)
    legend_below(axes, ncols=2)


def draw_histories(axes, curves: Sequence[Curve], unit: str, **labels) -> None:
    """Draw numbers against the epoch or step (unit)."""
    draw_curves(axes, curves, **labels)
    integer_epochs(axes, unit)


def background_efficiency(curves: Sequence[Roc]) -> np.ndarray:
    """Average the background efficiency of several trainings at the signal efficiencies EFFICIENCIES."""
    return np.mean([np.interp(EFFICIENCIES, curve.signal, curve.background) for curve in curves], axis=0)


def draw_roc(
    axes: Sequence, methods: Mapping[str, Sequence[Roc]], background: int, reference: str, signal: str
) -> None:
    """Draw background rejections against the signal efficiency, and to a second axes their ratio to a reference.

    methods: the ROC curves of the trainings of each method, which are averaged; background: number of background jets,
    which gives the 68% bands; signal: name of the signal."""
    efficiencies = {name: background_efficiency(curves) for name, curves in methods.items()}
    upper, *ratio = axes
    for k, (name, curves) in enumerate(methods.items()):
        shown = efficiencies[name] > 0
        x, found, style = EFFICIENCIES[shown], efficiencies[name][shown], {"color": class_colour(k), "lw": 1.5}
        area = np.mean([curve.area for curve in curves])
        upper.plot(x, 1 / found, label=f"{name}, AUC = {area:.4f}", **style)
        upper.fill_between(x, *rejection_band(found, background), color=class_colour(k), alpha=0.2, lw=0)
        for lower in ratio:
            lower.plot(x, efficiencies[reference][shown] / found, **style)
    upper.plot(EFFICIENCIES, 1 / EFFICIENCIES, ":", color="black", lw=1, label="chance")
    upper.set(ylabel="background rejection", yscale="log", xlim=(0, 1), ylim=(1, max(background, 10)))
    upper.grid(alpha=0.3)
    for lower in ratio:
        low, high = lower.get_ylim()
        lower.set(ylabel=f"ratio to {reference}", ylim=(max(low, 0), min(max(high, 1.2), 5)))
        lower.grid(alpha=0.3)
    axes[-1].set_xlabel(f"{signal} efficiency")
    below = {"bbox_to_anchor": (0.5, -0.45)} if ratio else {}
    legend_below(axes[-1], ncols=2, handles=upper.get_legend_handles_labels()[0], **below)


def draw_scores(axes, methods: Mapping[str, tuple[np.ndarray, np.ndarray]], signal: str, background: str) -> None:
    """Draw histograms of the signal probability of signal (lines) and background (dashed), normalized to 1.

    methods: by name, the probabilities of signal and background jets."""
    bins = np.linspace(0, 1, SCORE_BINS + 1)
    for k, (name, samples) in enumerate(methods.items()):
        for values, what, style in zip(samples, (signal, background), ("-", "--"), strict=True):
            counts = np.histogram(values, bins)[0] / max(len(values), 1)
            axes.stairs(counts, bins, color=class_colour(k), ls=style, lw=1.5, label=f"{name}: {what}")
    axes.set(xlabel=f"probability of {signal}", ylabel="fraction of the jets", yscale="log", xlim=(0, 1))
    axes.grid(alpha=0.3)
    legend_below(axes, ncols=2)


def draw_reliabilities(axes, methods: Mapping[str, Reliability]) -> None:
    """Draw the accuracy against the confidence of each method."""
    axes.plot([0, 1], [0, 1], ":", color="black", lw=1, label="perfect calibration")
    for k, (name, bins) in enumerate(methods.items()):
        filled = bins.fraction > 0
        label = f"{name}, ECE = {bins.error:.4f}"
        axes.plot(bins.confidence[filled], bins.accuracy[filled], "o-", ms=4, c=class_colour(k), label=label)
    left = min((bins.confidence[bins.fraction > 0].min(initial=1) for bins in methods.values()), default=0)
    axes.set(xlabel="confidence: probability of the predicted class", ylabel="accuracy")
    axes.set(xlim=(max(left - 0.05, 0), 1.01), ylim=(max(left - 0.15, 0), 1.02))
    axes.grid(alpha=0.3)
    legend_below(axes, ncols=2)


def draw_probes(panels: Iterable, names: Sequence[str], trained: np.ndarray, random: np.ndarray, trivial) -> None:
    """Draw R^2 against the block, one panel for each observable in `names`.

    trained, random (blocks, K): of a network, and with random weights; trivial (K,): from the number of particles."""
    drawn = list(panels)
    for k, (axes, name) in enumerate(zip(drawn, names, strict=False)):
        blocks = range(len(trained))
        axes.plot(blocks, trained[:, k], "o-", ms=3, c=NETWORK, label="this network")
        axes.plot(blocks, random[:, k], "o--", ms=3, c=REFERENCE, label="random weights")
        axes.axhline(trivial[k], ls=":", c="black", lw=1, label="number of particles")
        axes.set(title=name, ylim=(min(0, max(-1, trained.min())) - 0.05, 1.05))
        integer_epochs(axes, "block")
        axes.set_ylabel("R²")
        axes.label_outer()
        axes.grid(alpha=0.3)
    for axes in drawn[len(names) :]:
        axes.set_axis_off()
    drawn[0].figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
