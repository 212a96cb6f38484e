"""The look that all pictures share: colours of classes, axes of epochs, legends beside the curves."""

from collections.abc import Sequence
from pathlib import Path

# Okabe and Ito's colours, which colour-blind readers can tell apart, then darker and lighter ones for ten classes
CLASS_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999"),
    *("#e69f00", "#56b4e9", "#7f4f24", "#5a189a", "#b5bd00"),
)
NETWORK, REFERENCE = "#0072b2", "#999999"  # the curve of the network, and what it is compared with
TRAINING, VALIDATION = "#56b4e9", "#d55e00"
MOST_PIXELS = 2000  # width of a picture
POINTS_OF_CURVE = 20_000  # of a line: more cannot be seen, and Matplotlib refuses some millions


def class_colour(number: int) -> str:
    """Return the colour of a class, which is the same in every picture; the colours repeat after ten classes."""
    return CLASS_COLOURS[number % len(CLASS_COLOURS)]


def class_name(number: int, names: Sequence[str] = ()) -> str:
    """Return the name of a class, or "class 3" if it has none."""
    return names[number] if number < len(names) else f"class {number}"


def save(figure, path: Path) -> None:
    """Write a figure to a PNG that is at most MOST_PIXELS wide."""
    figure.savefig(path, dpi=min(130.0, MOST_PIXELS / figure.get_figwidth()))


def integer_epochs(axes, label: str = "epoch") -> None:
    """Mark only whole numbers on the horizontal axis, for a run of one epoch too."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend_beside(axes, **options):
    """Put the legend to the right of the axes, where it hides no curve; the figure needs the constrained layout."""
    style = {"fontsize": 8, "loc": "upper left", "borderaxespad": 0.0, "bbox_to_anchor": (1.02, 1.0)}
    return axes.legend(**style | options)


def legend_below(axes, **options):
    """Put the legend below the axes, where it hides no curve; the figure needs the constrained layout."""
    return axes.legend(**{"fontsize": 8, "loc": "upper center", "bbox_to_anchor": (0.5, -0.2)} | options)
