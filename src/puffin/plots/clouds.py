"""Pictures of LArTPC events: their points, what a masked autoencoder reconstructs, and the features of its encoder.

Each page shows one event in three dimensions and in its three projections, in cm.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puffin.detector import PILARNET
from puffin.errors import InputError
from puffin.files import whole_file
from puffin.plots.style import class_colour, class_name, save

CM = PILARNET.unit_cm  # scaled coordinates to cm, from the centre of the detector
_AXES = "xyz"
_TOKEN_COLOURS = 20  # distinguishable colours of the palette
_VISIBLE, _MASKED, _CHOSEN = "#bbbbbb", "#5a189a", "#e60026"  # no colours of classes


@dataclass(frozen=True)
class Layer:
    """Points of a picture that are drawn in the same way.

    points (N, 3): scaled coordinates; name: in the legend, '' for no entry; colour: one colour, (N,) numbers for a
    colour bar, or (N, 3) RGB from 0 to 1; size: area of a marker [typographic points squared]; limits: of the colour
    bar, None for those of the numbers; hollow: draw thin rings, which hide no points."""

    points: np.ndarray
    name: str = ""
    colour: str | np.ndarray = "#0072b2"
    size: float = 3.0
    limits: tuple[float, float] | None = None
    hollow: bool = False

    @property
    def is_scale(self) -> bool:
        """Whether the colours are numbers on a colour bar."""
        return isinstance(self.colour, np.ndarray) and self.colour.ndim == 1


@dataclass(frozen=True)
class Page:
    """A picture of one event: layers from back to front; scale: label of the colour bar."""

    title: str
    layers: list[Layer]
    scale: str = ""


# -- pages ----------------------------------------------------------------------------------------------------------


def by_energy(points: np.ndarray, energies: np.ndarray, title: str) -> Page:
    """Make a page of an event (N, 4) coloured by energies (N,) [MeV]; the colours span the middle 96% of them."""
    colours = np.clip(energies, *np.percentile(energies, [2, 98]))
    return Page(
        f"{title}: energy", [Layer(points[:, :3], colour=colours)], "energy [MeV], between its 2nd and 98th percentile"
    )


def by_class(points: np.ndarray, semantic: np.ndarray, title: str) -> Page:
    """Make a page of an event (N, 4) coloured by class (N,), rare classes in front."""
    layers = []
    for k in sorted(range(len(PILARNET.class_names)), key=lambda k: -int((semantic == k).sum())):
        of_class = points[semantic == k, :3]
        if len(of_class):
            layers.append(Layer(of_class, f"{PILARNET.class_names[k]} ({len(of_class)})", class_colour(k)))
    return Page(f"{title}: class", layers)


def by_error(points: np.ndarray, true: np.ndarray, predicted: np.ndarray, title: str) -> Page:
    """Make a page of an event (N, 4): correctly classified points are grey, others have the colour of their true class.

    true, predicted (N,): class numbers."""
    wrong = predicted != true
    layers = [Layer(points[~wrong, :3], f"correct ({int((~wrong).sum())})", "#c4c4c4", 2)]
    for k in sorted(range(len(PILARNET.class_names)), key=lambda k: -int((true == k).sum())):
        missed = wrong & (true == k)
        if missed.any():
            name = f"{PILARNET.class_names[k]} missed ({int(missed.sum())})"
            layers.append(Layer(points[missed, :3], name, class_colour(k)))
    return Page(f"{title}: errors, coloured by the true class", layers)


def by_token(points: np.ndarray, members: list[np.ndarray], centres: np.ndarray, title: str) -> Page:
    """Make a page of an event (N, 4) with one colour per token, and the centres (T, 3) of the tokens.

    members: row numbers of the points of each token. The colours repeat after 20 tokens."""
    import matplotlib

    palette = matplotlib.colormaps["tab20"].colors
    free = np.setdiff1d(np.arange(len(points)), np.concatenate([np.zeros(0, np.int64), *members]))
    in_tokens = np.concatenate([np.zeros((0, 3)), *(points[m, :3] for m in members)])
    of_tokens = [palette[k % _TOKEN_COLOURS] for k in range(len(members))]
    colours = np.repeat(of_tokens, [len(m) for m in members], 0).reshape(-1, 3)
    layers = []
    if len(free):
        layers.append(Layer(points[free, :3], f"in no token ({len(free)})", "#bbbbbb", 2))
    layers += [
        Layer(in_tokens, "points, one colour per token", colours),
        Layer(centres, f"centres of {len(centres)} tokens", "#000000", 16, hollow=True),
    ]
    return Page(f"{title}: tokens", layers)


def by_attention(points: np.ndarray, members: list[np.ndarray], attention: np.ndarray, token: int, title: str) -> Page:
    """Make a page of an event (N, 4) coloured by how much one token attends to each token, attention (T,).

    The unit is the same attention to all tokens; a point has the largest value of its tokens. token: number of the one
    that attends, whose points are red; members: row numbers of the points of each token."""
    values = np.zeros(len(points))
    for rows, weight in zip(members, attention * len(attention), strict=True):
        values[rows] = np.maximum(values[rows], weight)
    others, free = values > 0, values == 0
    others[members[token]] = False
    layers = [
        Layer(points[free, :3], f"in no token ({int(free.sum())})", _VISIBLE, 2),
        Layer(points[others, :3], colour=np.clip(values[others], None, np.percentile(values, 98))),
        Layer(points[members[token], :3], f"the token that attends ({len(members[token])} points)", _CHOSEN, 12),
    ]
    return Page(f"{title}: attention of a token", layers, "attention, 1 for the same to all tokens")


def reconstruction(visible: np.ndarray, true: np.ndarray, predicted: np.ndarray, title: str) -> list[Page]:
    """Make a page with the true masked points (N, 3), and one with the predicted points (M, 3).

    Both show the visible points (V, 3) in grey. `draw_side_by_side` draws them to one picture."""
    background = Layer(visible, f"visible ({len(visible)} points)", _VISIBLE, 2)
    true_layer = Layer(true, f"masked ({len(true)} points)", _MASKED)
    predicted_layer = Layer(predicted, f"predicted ({len(predicted)} points)", _MASKED)
    return [
        Page(f"{title}: masked points, true", [background, true_layer]),
        Page(f"{title}: masked points, predicted", [background, predicted_layer]),
    ]


def energies(visible: np.ndarray, true: np.ndarray, predicted: np.ndarray, title: str) -> list[Page]:
    """Make a page with the true energies of masked points, and one with the predicted energies of the same points.

    visible (V, 3): the visible points, in grey; true (N, 4): masked points and their energies [MeV]; predicted (N,)
    [MeV]. Both pages have the colours of the middle 96% of the true energies."""
    low, high = np.percentile(true[:, 3], [2, 98])
    background = Layer(visible, f"visible ({len(visible)} points)", _VISIBLE, 2)
    scale = "energy [MeV], from the 2nd to the 98th percentile of the true ones"
    return [
        Page(f"{title}: {name} energies of masked points", [background, layer], scale)
        for name, layer in (
            ("true", Layer(true[:, :3], colour=np.clip(true[:, 3], low, high), limits=(low, high))),
            ("predicted", Layer(true[:, :3], colour=np.clip(predicted, low, high), limits=(low, high))),
        )
    ]


def by_embedding(
    positions: np.ndarray, features: np.ndarray, title: str, items: str = "tokens", size: float = 14
) -> Page:
    """Make a page of tokens or points (T, 3) coloured by the first three principal components of their features (T, D).

    items: what they are called; size: of a marker."""
    return Page(
        f"{title}: first principal components of the {items} as red, green, blue",
        [Layer(positions, items, principal_colours(features), size)],
    )


def principal_colours(features: np.ndarray) -> np.ndarray:
    """Compute colours (T, 3) from 0 to 1: the first three principal components of features (T, D).

    Each is scaled from its 2nd to its 98th percentile."""
    centred = features.astype(np.float64) - features.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    components = np.zeros((len(features), 3))
    number = min(3, len(singular))
    components[:, :number] = left[:, :number] * singular[:number]
    low, high = np.percentile(components, [2, 98], axis=0)
    return np.clip((components - low) / np.where(high > low, high - low, 1), 0, 1)


# -- drawing --------------------------------------------------------------------------------------------------------


def draw_page(path: Path, page: Page) -> None:
    """Draw an event to a file: a view in three dimensions and the three projections, axes in cm with equal scales."""
    from matplotlib.figure import Figure  # slow to import; Figure needs no display

    figure = Figure(figsize=(11, 10), layout="constrained")
    figure.suptitle(page.title)
    limits = _limits(*_extent([page]))
    colours = _draw_space(figure.add_subplot(2, 2, 1, projection="3d"), page, limits)
    planes = [figure.add_subplot(2, 2, k) for k in (2, 3, 4)]
    for axes, plane in zip(planes, ((0, 1), (0, 2), (1, 2)), strict=True):
        _draw_plane(axes, page, limits, *plane)
    if colours is not None:
        figure.colorbar(colours, ax=[planes[0], planes[2]], label=page.scale, shrink=0.6, aspect=30)
    if any(layer.name for layer in page.layers):
        legend = figure.legend(*planes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
        _show_handles(legend, page)
    save(figure, path, dpi=130)


def draw_side_by_side(path: Path, title: str, pages: list[Page]) -> None:
    """Draw pages of one event next to each other to a file.

    The upper row is in three dimensions, the lower one is the projection on the two axes with the largest extent. All
    axes are in cm and have the same scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(pages), 11.5), layout="constrained")
    figure.suptitle(title)
    limits, (a, b) = _limits(*_extent(pages)), _longest_axes(pages)
    for column, page in enumerate(pages, 1):
        space = figure.add_subplot(2, len(pages), column, projection="3d")
        space.set_title(page.title)
        colours = _draw_space(space, page, limits)
        plane = figure.add_subplot(2, len(pages), len(pages) + column)
        _draw_plane(plane, page, limits, a, b)
        if colours is not None:
            bar = {"location": "bottom", "shrink": 0.8, "aspect": 30, "pad": 0.02}
            figure.colorbar(colours, ax=space, label=page.scale, **bar).ax.tick_params(labelsize=8)
        if any(layer.name for layer in page.layers):
            _show_handles(plane.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=9), page)
    save(figure, path, dpi=110)


def draw_tokens(panels: Iterable, tokens: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> None:
    """Draw tokens side by side, each in the plane in which its points extend farthest, with the same scale.

    tokens: points (N, 3), class numbers (N,) and title of each; the colours are those of the classes."""
    handles: dict = {}
    flat = []
    for points, _, _ in tokens:
        centred = (points - points.mean(0)) * CM
        flat.append(centred @ np.linalg.svd(centred)[2][:2].T)
    half = max(1.05 * max((float(np.abs(x).max(initial=0)) for x in flat), default=0), 0.1)
    for axes, (_, semantic, title), x in zip(panels, tokens, flat, strict=True):
        for k in np.unique(semantic):
            shown = x[semantic == k]
            label = class_name(k, PILARNET.class_names)
            axes.scatter(shown[:, 0], shown[:, 1], s=14, color=class_colour(k), label=label)
        axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", title=title)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    axes.figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=9)


def _draw_space(axes, page: Page, limits: list[tuple[float, float]]):
    """Draw a page in three dimensions; returns the scatter plot for the colour bar, or None."""
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
    """Draw the projection of a page on axes a and b."""
    for layer in page.layers:
        axes.scatter(layer.points[:, a] * CM, layer.points[:, b] * CM, **_style(layer))
    axes.set(xlabel=f"{_AXES[a]} [cm]", ylabel=f"{_AXES[b]} [cm]", xlim=limits[a], ylim=limits[b], aspect="equal")
    axes.grid(alpha=0.3)


def _style(layer: Layer) -> dict:
    style = {"s": layer.size, "label": layer.name or None, "rasterized": True}  # a PDF of all points is slow to show
    if layer.hollow:
        return style | {"facecolors": "none", "edgecolors": layer.colour, "linewidths": 0.4, "alpha": 0.7}
    style |= {"c": layer.colour, "linewidths": 0}
    if layer.is_scale:
        low, high = layer.limits or (None, None)
        style |= {"cmap": "viridis", "vmin": low, "vmax": high}
    return style


def _show_handles(legend, page: Page) -> None:
    """Make the markers of a legend large enough to be seen."""
    for handle, layer in zip(legend.legend_handles, [layer for layer in page.layers if layer.name], strict=True):
        handle.set_sizes([25])
        if not isinstance(layer.colour, str):
            handle.set_facecolor(layer.colour[0] if len(layer.colour) else "none")


def _corners(pages: list[Page]) -> np.ndarray:
    """Return the lowest and highest coordinates [cm] of all points, (2, 3)."""
    points = np.concatenate([np.zeros((0, 3)), *(layer.points for page in pages for layer in page.layers)]) * CM
    return np.stack([points.min(0), points.max(0)]) if len(points) else np.zeros((2, 3))


def _extent(pages: list[Page]) -> tuple[np.ndarray, float]:
    """Return the centre (3,) and half the edge [cm] of a cube around all points."""
    low, high = _corners(pages)
    return (low + high) / 2, max(float((high - low).max()) * 0.53, 1.0)


def _limits(centre: np.ndarray, half: float) -> list[tuple[float, float]]:
    return list(zip(centre - half, centre + half, strict=True))


def _longest_axes(pages: list[Page]) -> list[int]:
    """Return the two axes along which the points extend farthest, in ascending order."""
    low, high = _corners(pages)
    return sorted(np.argsort(low - high, kind="stable")[:2].tolist())


def need_plotly() -> None:
    """Raise InputError if plotly, which interactive pictures need, is not installed."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError(
            "plotly is not installed, but interactive pictures need it. "
            "Install it with: pip install plotly (extra: plots), or do not pass --plot-html."
        )


def write_html(path: Path, pages: list[Page]) -> None:
    """Write pages of one event to an interactive HTML file, with a menu of pages; it works without a network.

    InputError if plotly is not installed."""
    need_plotly()
    import plotly.graph_objects as go

    figure, page_of_trace = go.Figure(), []
    for number, page in enumerate(pages):
        for layer in page.layers:
            marker: dict = {"size": max(1.5, layer.size**0.5 * 1.4)}
            marker |= {"symbol": "circle-open"} if layer.hollow else {}
            if layer.is_scale:
                marker |= {"color": layer.colour, "colorscale": "Viridis", "colorbar": {"title": page.scale}}
                marker |= dict(zip(("cmin", "cmax"), layer.limits, strict=True)) if layer.limits else {}
            elif isinstance(layer.colour, str):
                marker |= {"color": layer.colour}
            else:
                marker |= {"color": [f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in np.asarray(layer.colour) * 255]}
            x, y, z = (layer.points * CM).T.astype(np.float32)
            figure.add_scatter3d(
                x=x, y=y, z=z, mode="markers", name=layer.name or page.scale, marker=marker, visible=number == 0
            )
            page_of_trace.append(number)
    buttons = [
        {
            "label": page.title,
            "method": "update",
            "args": [{"visible": [n == number for n in page_of_trace]}, {"title.text": page.title}],
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
