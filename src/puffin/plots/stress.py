"""Picture of a tagger's numbers for perturbed jets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from puffin.metrics.bootstrap import Number
from puffin.plots.style import class_colour, legend_beside, page, save, styled


@styled
def draw_stress(
    path: Path, curves: Mapping[str, Mapping[str, Sequence[tuple[float, Number]]]], title: str, columns: int = 3
) -> None:
    """Draw the ratio to the unperturbed jets against the strength, one panel per perturbation, to one PNG.

    curves: by label of a perturbation and by metric, the strengths and the ratios with their intervals (bands)."""
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure, grid = page(columns, rows, width=2.8, height=2.2, sharey=True)
    panels = list(grid.flat)
    for axes, (label, metrics) in zip(panels, curves.items(), strict=False):
        axes.axhline(1, color="black", lw=1, ls=":")
        for k, (metric, points) in enumerate(metrics.items()):
            strengths, ratios = zip(*sorted([*points, (0.0, Number(1.0, low=1.0, high=1.0))]), strict=True)
            axes.plot(strengths, [r.value for r in ratios], "o-", ms=4, c=class_colour(k), label=metric)
            bounds = [r.low for r in ratios], [r.high for r in ratios]
            axes.fill_between(strengths, *bounds, color=class_colour(k), alpha=0.2, lw=0)
        axes.set(xlabel=label, ylim=(0, None))
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    for axes in panels[::columns]:
        axes.set_ylabel("ratio to unperturbed jets")
    for unused in panels[len(curves) :]:
        unused.set_axis_off()
    legend_beside(panels[columns - 1])
    figure.suptitle(title, fontsize=9)
    save(figure, path)
