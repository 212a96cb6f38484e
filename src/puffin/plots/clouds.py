"""Pictures of LArTPC events: what is in them, what a masked autoencoder makes of them, what its encoder sees.

An event is shown on a page of its own, once in three dimensions and in its three projections, in cm.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puffin.data.pilarnet import CLASS_NAMES
from puffin.errors import InputError
from puffin.files import whole_file

CM = 0.3 * 768 * 3**0.5 / 2  # of one unit of prepared coordinates, which begin at the centre of the detector
CLASS_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999")
_AXES = "xyz"
_MOST_TOKENS = 20  # colours that can be told apart


@dataclass(frozen=True)
class Layer:
    """Points of a picture that are drawn alike.

    points (N, 3) prepared coordinates; name: in the legend, '' for none; colour: one for all, (N,) numbers for the
    colour bar, or (N, 3) RGB from 0 to 1; size [points of a page]."""

    points: np.ndarray
    name: str = ""
    colour: str | np.ndarray = "#0072b2"
    size: float = 3.0

    @property
    def is_scale(self) -> bool:
        """Whether the colours are numbers of a scale."""
        return isinstance(self.colour, np.ndarray) and self.colour.ndim == 1


@dataclass(frozen=True)
class Page:
    """A picture of one event: layers from back to front; scale: what the numbers of a colour bar are."""

    title: str
    layers: list[Layer]
    scale: str = ""


# -- what to show ---------------------------------------------------------------------------------------------------


def by_energy(points: np.ndarray, energies: np.ndarray, title: str) -> Page:
    """An event (N, 4) coloured by energies (N,) [MeV]; the colours span the middle 96% of them."""
    colours = np.clip(energies, *np.percentile(energies, [2, 98]))
    return Page(
        f"{title}: energy", [Layer(points[:, :3], colour=colours)], "energy [MeV], between its 2nd and 98th percentile"
    )


def by_class(points: np.ndarray, semantic: np.ndarray, title: str) -> Page:
    """An event (N, 4) coloured by class (N,); rare classes in front."""
    layers = []
    for k in sorted(range(len(CLASS_NAMES)), key=lambda k: -int((semantic == k).sum())):
        chosen = points[semantic == k, :3]
        if len(chosen):
            layers.append(Layer(chosen, f"{CLASS_NAMES[k]} ({len(chosen)})", CLASS_COLOURS[k]))
    return Page(f"{title}: class", layers)


def by_error(points: np.ndarray, truth: np.ndarray, given: np.ndarray, title: str) -> Page:
    """An event (N, 4): grey where the class given is the true one (N,), else in the colour of the true class."""
    wrong = given != truth
    layers = [Layer(points[~wrong, :3], f"right ({int((~wrong).sum())})", "#c4c4c4", 2)]
    for k in sorted(range(len(CLASS_NAMES)), key=lambda k: -int((truth == k).sum())):
        missed = wrong & (truth == k)
        if missed.any():
            layers.append(Layer(points[missed, :3], f"{CLASS_NAMES[k]} missed ({int(missed.sum())})", CLASS_COLOURS[k]))
    return Page(f"{title}: errors, coloured by the true class", layers)


def by_token(points: np.ndarray, members: list[np.ndarray], centres: np.ndarray, title: str) -> Page:
    """An event (N, 4), the points of each token (row numbers) in a colour of its own, and the centres (T, 3).

    Neighbours differ as a rule: the colours come around after a few tokens."""
    import matplotlib

    palette = matplotlib.colormaps["tab20"].colors
    free = np.setdiff1d(np.arange(len(points)), np.concatenate([np.zeros(0, np.int64), *members]))
    where = np.concatenate([np.zeros((0, 3)), *(points[m, :3] for m in members)])
    colours = np.repeat([palette[k % _MOST_TOKENS] for k in range(len(members))], [len(m) for m in members], 0).reshape(
        -1, 3
    )
    layers = (
        [Layer(points[free, :3], f"in no token, or beyond the size of one ({len(free)})", "#bbbbbb", 2)]
        if len(free)
        else []
    )
    layers += [
        Layer(where, "points, one colour for each token", colours),
        Layer(centres, f"centres of {len(centres)} tokens", "#000000", 1.5),
    ]
    return Page(f"{title}: tokens", layers)


def reconstruction(visible: np.ndarray, true: np.ndarray, predicted: np.ndarray, title: str) -> list[Page]:
    """What was seen (V, 3), and what was hidden (N, 3) or is predicted for it (M, 3): the truth, then the prediction."""
    seen = Layer(visible, f"visible ({len(visible)} points)", "#bbbbbb", 2)
    return [
        Page(f"{title}: hidden tokens, truth", [seen, Layer(true, f"hidden ({len(true)} points)", "#d55e00")]),
        Page(
            f"{title}: hidden tokens, predicted",
            [seen, Layer(predicted, f"predicted ({len(predicted)} points)", "#0072b2")],
        ),
    ]


def by_embedding(centres: np.ndarray, features: np.ndarray, title: str) -> Page:
    """Tokens (T, 3) coloured by the first three principal components of their features (T, D), as red, green and blue."""
    return Page(
        f"{title}: first principal components of the tokens as red, green, blue",
        [Layer(centres, "tokens", principal_colours(features), 14)],
    )


def principal_colours(features: np.ndarray) -> np.ndarray:
    """(T, 3) from 0 to 1: the first three principal components of features (T, D), each from its 2nd to 98th percentile."""
    centred = features.astype(np.float64) - features.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    components = np.zeros((len(features), 3))
    kept = min(3, len(singular))
    components[:, :kept] = left[:, :kept] * singular[:kept]
    low, high = np.percentile(components, [2, 98], axis=0)
    return np.clip((components - low) / np.where(high > low, high - low, 1), 0, 1)


# -- how to show it -------------------------------------------------------------------------------------------------


def draw_page(path: Path, page: Page) -> None:
    """One event to a PNG: a view in three dimensions and the three projections, axes in cm with equal scales."""
    from matplotlib.figure import Figure  # slow to import; Figure needs no display

    figure = Figure(figsize=(11, 10), layout="constrained")
    figure.suptitle(page.title)
    limits = _limits(*_extent([page]))
    colours = _draw_space(figure.add_subplot(2, 2, 1, projection="3d"), page, limits)
    planes = [figure.add_subplot(2, 2, k) for k in (2, 3, 4)]
    for axes, plane in zip(planes, ((0, 1), (0, 2), (1, 2)), strict=False):
        _draw_plane(axes, page, limits, *plane)
    if colours is not None:
        figure.colorbar(colours, ax=[planes[0], planes[2]], label=page.scale, shrink=0.6, aspect=30)
    if any(layer.name for layer in page.layers):
        legend = figure.legend(*planes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
        _show_handles(legend, page)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130)


def draw_side_by_side(path: Path, title: str, pages: list[Page]) -> None:
    """Pages of one event next to each other to a PNG: above in three dimensions, below in the plane of the event's two
    longest sides; axes in cm with equal scales, the same on all pages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(pages), 11.5), layout="constrained")
    figure.suptitle(title)
    limits, (a, b) = _limits(*_extent(pages)), _longest_sides(pages)
    for column, page in enumerate(pages, 1):
        space = figure.add_subplot(2, len(pages), column, projection="3d")
        space.set_title(page.title)
        _draw_space(space, page, limits)
        plane = figure.add_subplot(2, len(pages), len(pages) + column)
        _draw_plane(plane, page, limits, a, b)
        if any(layer.name for layer in page.layers):
            _show_handles(plane.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=9), page)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_space(axes, page: Page, limits: list[tuple[float, float]]):
    """A view in three dimensions; returns what a colour bar is made from, or None."""
    from matplotlib.ticker import MaxNLocator

    colours = None
    for layer in page.layers:
        drawn = axes.scatter(*(layer.points * CM).T, depthshade=False, **_style(layer))
        colours = drawn if layer.is_scale else colours
    axes.set(xlabel="x [cm]", ylabel="y [cm]", zlabel="z [cm]", xlim=limits[0], ylim=limits[1], zlim=limits[2])
    axes.set_box_aspect((1, 1, 1), zoom=0.85)  # room for the labels
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.tick_params(pad=0, labelsize=8)
    return colours


def _draw_plane(axes, page: Page, limits: list[tuple[float, float]], a: int, b: int) -> None:
    """The projection on the plane of two axes."""
    for layer in page.layers:
        axes.scatter(layer.points[:, a] * CM, layer.points[:, b] * CM, **_style(layer))
    axes.set(xlabel=f"{_AXES[a]} [cm]", ylabel=f"{_AXES[b]} [cm]", xlim=limits[a], ylim=limits[b], aspect="equal")
    axes.grid(alpha=0.3)


def _style(layer: Layer) -> dict:
    style = {"s": layer.size, "c": layer.colour, "linewidths": 0, "label": layer.name or None}
    return style | ({"cmap": "viridis"} if layer.is_scale else {})


def _show_handles(legend, page: Page) -> None:
    """Make the marks of a legend large enough to be seen."""
    for handle, layer in zip(legend.legend_handles, [layer for layer in page.layers if layer.name], strict=False):
        handle.set_sizes([25])
        if not isinstance(layer.colour, str):
            handle.set_facecolor("none")
            handle.set_edgecolor("black")
            handle.set_linewidth(0.8)


def _corners(pages: list[Page]) -> np.ndarray:
    """Lowest and highest coordinates [cm] of all points, (2, 3)."""
    where = np.concatenate([np.zeros((0, 3)), *(layer.points for page in pages for layer in page.layers)]) * CM
    return np.stack([where.min(0), where.max(0)]) if len(where) else np.zeros((2, 3))


def _extent(pages: list[Page]) -> tuple[np.ndarray, float]:
    """Centre (3,) and half the edge [cm] of a cube around the points."""
    low, high = _corners(pages)
    return (low + high) / 2, max(float((high - low).max()) * 0.53, 1.0)


def _limits(centre: np.ndarray, half: float) -> list[tuple[float, float]]:
    return list(zip(centre - half, centre + half, strict=False))


def _longest_sides(pages: list[Page]) -> list[int]:
    """The two axes along which the points reach farthest, in their order."""
    low, high = _corners(pages)
    return sorted(np.argsort(low - high, kind="stable")[:2].tolist())


def need_plotly() -> None:
    """InputError if interactive pictures cannot be made here."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError(
            "interactive pictures need plotly; install it with: pip install plotly (extra: plots), or leave --plot-html out"
        )


def write_html(path: Path, pages: list[Page]) -> None:
    """Pages of one event to an HTML file that can be turned and zoomed; a menu chooses the page.

    InputError if plotly is not installed.  The file holds all it needs."""
    need_plotly()
    import plotly.graph_objects as go

    figure, owner = go.Figure(), []
    for number, page in enumerate(pages):
        for layer in page.layers:
            marker = {"size": max(1.5, layer.size**0.5 * 1.4)}
            if layer.is_scale:
                marker |= {"color": layer.colour, "colorscale": "Viridis", "colorbar": {"title": page.scale}}
            elif isinstance(layer.colour, str):
                marker |= {"color": layer.colour}
            else:
                marker |= {"color": [f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in np.asarray(layer.colour) * 255]}
            x, y, z = (layer.points * CM).T.astype(np.float32)
            figure.add_scatter3d(
                x=x, y=y, z=z, mode="markers", name=layer.name or page.scale, marker=marker, visible=number == 0
            )
            owner.append(number)
    buttons = [
        {
            "label": page.title,
            "method": "update",
            "args": [{"visible": [o == number for o in owner]}, {"title.text": page.title}],
        }
        for number, page in enumerate(pages)
    ]
    figure.update_layout(
        title={"text": pages[0].title},
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}],
        scene={"aspectmode": "data", **{f"{axis}axis": {"title": {"text": f"{axis} [cm]"}} for axis in _AXES}},
        legend={"itemsizing": "constant"},
    )
    with whole_file(path) as temporary:
        figure.write_html(temporary, include_plotlyjs=True)
