"""What a page consists of: sections with figures, tables, views of events and notes."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puffin.plots.clouds import CM, Layer, Page

_LARGEST_SVG = 200_000  # bytes; a figure with more lines than this is stored as pixels
_WIDEST = 1200  # pixels of an embedded picture
_MOST_POINTS = 6000  # of one event in a view


@dataclass(frozen=True)
class Figure:
    """A picture. source: a data URI; caption: what it shows, also for those who cannot see it; wide: over all
    columns of the page."""

    source: str
    caption: str
    wide: bool = False
    kind: str = "figure"


@dataclass(frozen=True)
class Table:
    """A table of texts. A click on a column of the header sorts the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Note:
    """A paragraph; code: lines to copy, such as a command; closed: shown after a click on its title."""

    text: str = ""
    code: str = ""
    title: str = ""
    kind: str = "note"


@dataclass(frozen=True)
class View:
    """An event in three dimensions that can be rotated, with buttons for its pages. content: JSON for viewer.js."""

    content: str
    caption: str
    kind: str = "view"


@dataclass
class Section:
    """A part of the page under a title."""

    title: str
    blocks: list[Figure | Table | Note | View] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its address within the page."""
        return self.title.lower().replace(" ", "-")


def new_figure(height: float = 3.9, width: float = 5.4) -> Any:
    """Return a figure [inches] whose text can be read on a telephone."""
    from matplotlib.figure import Figure as MatplotlibFigure  # slow to import; needs no display

    return MatplotlibFigure(figsize=(width, height), layout="constrained")


def embed(figure, caption: str) -> Figure:
    """Return a Matplotlib figure as an SVG, or as a PNG if that is smaller."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "puffin"}):  # the same figure gives the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    if len(buffer.getvalue()) < _LARGEST_SVG:
        return Figure(_uri("image/svg+xml", buffer.getvalue()), caption)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return Figure(_uri("image/png", buffer.getvalue()), caption)


def embed_file(path: Path, caption: str, wide: bool = True) -> Figure:
    """Return a picture that a run has drawn, at most _WIDEST pixels wide."""
    from PIL import Image  # comes with Matplotlib

    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((_WIDEST, 4 * _WIDEST))
        small.save(buffer, format="WEBP", quality=80)
    return Figure(_uri("image/webp", buffer.getvalue()), caption, wide)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def view_of(pages: Sequence[Page], caption: str) -> View:
    """Return a view with the pages of one event. Of more than _MOST_POINTS points of a layer some are left out."""
    content = [{"title": page.title, "layers": [_layer(layer, page.scale) for layer in page.layers]} for page in pages]
    return View(json.dumps(content, separators=(",", ":")), caption)


def _layer(layer: Layer, scale: str) -> dict[str, Any]:
    """Return a layer for viewer.js: its points as 16-bit numbers [mm] in base64, and its colours as text.

    scale: what the colours stand for if they are numbers."""
    step = -(-len(layer.points) // _MOST_POINTS) or 1
    points = np.rint(layer.points[::step] * CM * 10).astype("<i2")
    name = layer.name
    if layer.is_scale:
        low, high = _limits(layer)
        name = name or f"{scale}: dark {low:.3g}, bright {high:.3g}"
    found = {"name": name, "size": layer.size, "hollow": layer.hollow}
    found["points"] = base64.b64encode(points.tobytes()).decode()
    if isinstance(layer.colour, str):
        return found | {"colour": layer.colour}
    colours = np.rint(_rgb(layer)[::step] * 255).astype(np.uint8)
    return found | {"colours": base64.b64encode(colours.tobytes()).decode()}


def _rgb(layer: Layer) -> np.ndarray:
    """Return the colours (N, 3) of a layer's points, 0 to 1."""
    colour = np.asarray(layer.colour)
    if not layer.is_scale:
        return colour
    from matplotlib import colormaps

    low, high = _limits(layer)
    return colormaps["viridis"]((colour - low) / max(high - low, 1e-12))[:, :3]


def _limits(layer: Layer) -> tuple[float, float]:
    """Return the numbers of the first and the last colour."""
    colour = np.asarray(layer.colour)
    return layer.limits or (colour.min(initial=np.inf), colour.max(initial=-np.inf))
