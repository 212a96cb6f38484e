"""Figures of a sweep, from plain lists."""

import math
from pathlib import Path

import numpy as np

from puffin.plots.style import integer_epochs, legend_below, page, save, styled

MOST_INCHES = 12.0  # width of a picture, which then fits on a screen


@styled
def draw_history(path: Path, numbers: list[int], values: list[float], metric: str, maximize: bool) -> None:
    """Draw the metric of each trial, and the best value so far, against the trial's number."""
    figure, ((ax,),) = page()
    ax.plot(numbers, values, "o", ms=4, label="trial")
    best = np.maximum.accumulate(values) if maximize else np.minimum.accumulate(values)
    ax.step(numbers, best, where="post", label="best so far")
    ax.set(ylabel=metric, title="History")
    integer_epochs(ax, "trial")
    legend_below(ax, ncols=2)
    ax.grid(alpha=0.3)
    save(figure, path)


@styled
def draw_importance(path: Path, importances: dict[str, float], metric: str) -> None:
    """Draw the importance of each flag (fractions that add up to 1), the largest on top."""
    figure, ((ax,),) = page(height=0.8 + 0.2 * len(importances))
    names = sorted(importances, key=importances.get)
    ax.barh(names, [importances[n] for n in names])
    ax.set(xlabel=f"importance for {metric}", title="Importance of flags")
    ax.grid(alpha=0.3, axis="x")
    save(figure, path)


@styled
def draw_parallel(
    path: Path, columns: dict[str, list], logarithmic: set[str], values: list[float], metric: str
) -> None:
    """Draw one line per trial through the values of its flags, coloured by the metric.

    A line is interrupted where a trial does not use the flag. columns: flag -> one value per trial, None if not used;
    logarithmic: flags with a logarithmic axis."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, ((ax,),) = page(width=min(1.5 + 0.8 * len(columns), MOST_INCHES))
    heights = np.array(
        [_heights(ax, x, column, name in logarithmic) for x, (name, column) in enumerate(columns.items())]
    )
    scale = ScalarMappable(Normalize(min(values), max(values)), colormaps["viridis"])
    for trial, value in enumerate(values):
        ax.plot(range(len(columns)), heights[:, trial], "o-", ms=3, lw=1.2, color=scale.to_rgba(value))
    ax.set(xticks=range(len(columns)), yticks=[], ylim=(-0.08, 1.08), xlim=(-0.3, len(columns) - 0.5), title="Trials")
    crowded = len(columns) > 8
    ax.set_xticklabels(columns, rotation=60 if crowded else 20, ha="right", fontsize=5 if crowded else 7)
    ax.grid(axis="x")
    figure.colorbar(scale, ax=ax).set_label(metric)
    save(figure, path)


def _heights(ax, x: int, column: list, logarithmic: bool) -> list[float]:
    """Return the heights of values on their axis, from 0 to 1 (nan: not used), and label the axis."""
    used = [v for v in column if v is not None]
    if any(isinstance(v, (str, bool)) for v in used):
        kinds = sorted(set(map(str, used)))
        labels = {kind: k / max(len(kinds) - 1, 1) for k, kind in enumerate(kinds)}
        heights = [math.nan if v is None else labels[str(v)] for v in column]
    else:
        low, high = min(used), max(used)
        scale = math.log if logarithmic else float
        width = (scale(high) - scale(low)) or 1.0
        heights = [math.nan if v is None else (scale(v) - scale(low)) / width for v in column]
        labels = {f"{low:.3g}": 0.0, f"{high:.3g}": 1.0} if high > low else {f"{low:.3g}": 0.0}
    for text, height in labels.items():
        ax.annotate(
            text if len(text) < 16 else text[:14] + "..", (x, height), (4, 0), textcoords="offset points", fontsize=6
        )
    return heights


@styled
def draw_pareto(path: Path, values: list[list[float]], front: list[bool], metrics: list[str]) -> None:
    """Draw the first two metrics of each trial and highlight the Pareto front (front: whether a trial is on it)."""
    figure, ((ax,),) = page()
    table, on_front = np.array(values), np.array(front)
    ax.plot(*table[~on_front, :2].T, "o", ms=4, color="grey", label="trial")
    ax.plot(*table[on_front, :2].T, "o", ms=6, label="Pareto front")
    ax.set(xlabel=metrics[0], ylabel=metrics[1], title="Pareto front")
    legend_below(ax, ncols=2)
    ax.grid(alpha=0.3)
    save(figure, path)
