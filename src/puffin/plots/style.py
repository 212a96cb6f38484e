"""What all pictures share: sizes, colours of classes, axes of epochs, legends beside the curves, file formats."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from puffin.files import whole_file

# Okabe and Ito's colours, which colour-blind readers can tell apart, then darker and lighter ones for ten classes
CLASS_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999"),
    *("#e69f00", "#56b4e9", "#7f4f24", "#5a189a", "#b5bd00"),
)
NETWORK, REFERENCE = "#0072b2", "#999999"  # the curve of the network, and what it is compared with
TRAINING, VALIDATION = "#56b4e9", "#d55e00"
PANEL = (3.5, 2.9)  # inches: as wide as a column of a paper
DPI = 240.0
STYLE: dict[Any, float] = {  # readable at the size of PANEL
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # TrueType, which journals accept
}
MOST_PIXELS = 2000  # width of a picture
POINTS_OF_CURVE = 20_000  # of a line: more cannot be seen, and Matplotlib refuses some millions


def class_colour(number: int) -> str:
    """Return the colour of a class, which is the same in every picture; the colours repeat after ten classes."""
    return CLASS_COLOURS[number % len(CLASS_COLOURS)]


def class_name(number: int, names: Sequence[str] = ()) -> str:
    """Return the name of a class, or "class 3" if it has none."""
    return names[number] if number < len(names) else f"class {number}"


def styled(draw: Callable[..., None]) -> Callable[..., None]:
    """Make a function that draws a picture use the letters and lines of STYLE."""

    @functools.wraps(draw)
    def drawn(*args, **options):
        from matplotlib import rc_context

        with rc_context(STYLE):
            draw(*args, **options)

    return drawn


def page(columns: int = 1, rows: int = 1, width: float = PANEL[0], height: float = PANEL[1], **options):
    """Make a figure and its panels, an array (rows, columns).

    width, height: of a panel, inches; options: of Figure.subplots."""
    from matplotlib.figure import Figure  # slow to import; Figure needs no display

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def draw_to(path: Path, formats: Sequence[str], draw: Callable[[Path], None]) -> list[Path]:
    """Draw a picture to `path`, with the ending of each format in turn; return the files.

    formats: such as "png" and "pdf"; none for --no-plot."""
    files = [path.with_suffix(f".{ending}") for ending in formats]
    for file in files:
        with whole_file(file) as temporary:
            draw(temporary)
    return files


def save(figure, path: Path, dpi: float = DPI) -> None:
    """Write a figure in the format of the path's ending; pixels are at most MOST_PIXELS in a row.

    The first page of a PDF is the figure, the next pages are its panels, if it has several."""
    dpi = min(dpi, MOST_PIXELS / figure.get_figwidth())
    figure.draw_without_rendering()  # the first layout does not know the labels of the ticks that it causes
    if path.suffix == ".pdf":
        _save_pages(figure, path, dpi)
    else:
        figure.savefig(path, dpi=dpi)


def _save_pages(figure, path: Path, dpi: float) -> None:
    from matplotlib.backends.backend_pdf import PdfPages

    panels = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    with PdfPages(path) as pages:
        pages.savefig(figure, dpi=dpi)
        for axes in panels if len(panels) > 1 else ():
            box = axes.get_tightbbox().transformed(figure.dpi_scale_trans.inverted())
            pages.savefig(figure, dpi=dpi, bbox_inches=box.padded(0.05))


def integer_epochs(axes, label: str = "epoch") -> None:
    """Mark only whole numbers on the horizontal axis, for a run of one epoch too."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend_beside(axes, **options):
    """Put the legend to the right of the axes, where it hides no curve; the figure needs the constrained layout."""
    style = {"loc": "upper left", "borderaxespad": 0.0, "bbox_to_anchor": (1.02, 1.0)}
    return axes.legend(**style | options)


def legend_below(axes, **options):
    """Put the legend below the axes, where it hides no curve; the figure needs the constrained layout."""
    style = {"loc": "upper center", "borderaxespad": 0.0, "bbox_to_anchor": (0.5, -0.25)}
    return axes.legend(**style | options)
