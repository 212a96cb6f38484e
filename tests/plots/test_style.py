"""What all pictures have in common: colours, whole epochs, legends that hide nothing, a size that fits a screen."""

import re

import matplotlib.image
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from puffin.detector import PILARNET
from puffin.plots.curves import draw_pretraining, draw_segmentation
from puffin.plots.jets import draw_classification, draw_regression
from puffin.plots.label_budgets import Summary, draw_label_budgets
from puffin.plots.style import MOST_PIXELS, PANEL, class_colour, class_name, draw_to, integer_epochs
from puffin.plots.sweeps import draw_history, draw_parallel, draw_pareto
from tests.conftest import ROOT
from tools import describe_lartpc

NAMES = ("shower", "track", "michel", "delta")


def rows_of(number, classes=NAMES):
    """Rows of epochs or steps with every curve that a picture may show."""
    return [
        {"epoch": k, "step": k, "train_loss": 1 / k, "valid_loss": 2 / k, "valid_f1_macro": 0.5}
        | {f"valid_{kind}_{name}": 0.1 * k for kind in ("f1", "probe_f1") for name in (*classes, "mean")}
        for k in range(1, number + 1)
    ]


def scores(num_classes, number=60):
    target = torch.arange(number) % num_classes
    predict = torch.randn(number, num_classes)
    predict[torch.arange(number), target] += 1
    return {"predict": predict, "targets": target}


def momenta(targets):
    true = torch.randn(50, targets, 4) + torch.tensor([100.0, 20, 0, 0])
    return {"predict": true * 1.1, "targets": true, "jet": true[:, 0]}


DRAWINGS = {
    "two classes": lambda path: draw_classification(path, rows_of(3), scores(2), ("background", "signal")),
    "ten classes": lambda path: draw_classification(
        path, rows_of(3), scores(10), [f"class of {k}" for k in "abcdefghij"]
    ),
    "one target": lambda path: draw_regression(path, rows_of(3), momenta(1)),
    "three targets": lambda path: draw_regression(path, rows_of(3), momenta(3)),
    "pretraining": lambda path: draw_pretraining(path, rows_of(3), None),
    "segmentation": lambda path: draw_segmentation(path, rows_of(3), {"confusion": torch.eye(4)}),
    "history": lambda path: draw_history(path, [0, 1], [0.1, 0.2], "AUC", True),
    "pareto": lambda path: draw_pareto(path, [[0.1, 0.2], [0.3, 0.1]], [True, False], ["a", "b"]),
    "parallel": lambda path: draw_parallel(
        path, {f"flag-{k}": [0.1, 0.2] for k in range(40)}, set(), [1.0, 2.0], "AUC"
    ),
    "label budgets": lambda path: draw_label_budgets(path, {("fft", 10): Summary(3, {"macro": 0.5}, {"macro": 0.1})}),
}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Return a function that draws a picture and returns its figure."""
    figures, write = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), write(figure, *a, **k)))

    def draw(name):
        DRAWINGS[name](tmp_path / "a.png")
        return figures[-1]

    return draw


@pytest.mark.parametrize("name", DRAWINGS)
def test_size_and_legends(drawn, tmp_path, name):
    """A picture fits on a screen, and no legend covers the axes it describes."""
    figure = drawn(name)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] <= MOST_PIXELS
    legends = 0
    for axes in figure.axes:
        if axes.get_legend() is not None:
            legends += 1
            covered, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
            assert covered.x0 >= inside.x1 or covered.y1 <= inside.y0, axes.get_title()
    assert legends or name in ("parallel", "label budgets")


@pytest.mark.parametrize("name", ["two classes", "one target", "pretraining", "segmentation", "history"])
def test_whole_epochs(drawn, name):
    """The axis of epochs, steps or trials has whole numbers only."""
    axes = drawn(name).axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_pdf_has_a_page_for_each_panel(tmp_path):
    """The first page is the picture; each panel has a page of its own, about as wide as a column."""
    DRAWINGS["two classes"](tmp_path / "a.pdf")
    boxes = re.findall(rb"/MediaBox \[ *0 0 ([\d.]+) ([\d.]+) *\]", (tmp_path / "a.pdf").read_bytes())
    first, *panels = [float(width) / 72 for width, _ in boxes]
    assert first == 2 * PANEL[0] and len(panels) == 2
    assert all(0.8 * PANEL[0] < width < 1.05 * PANEL[0] for width in panels)


@pytest.mark.parametrize("name", ["two classes", "one target", "pretraining", "segmentation", "history"])
def test_letters_are_readable_in_a_column(drawn, name):
    """A panel is as wide as a column, and has letters of at least 6 points in it."""
    figure = drawn(name)
    columns = figure.axes[0].get_subplotspec().get_gridspec().ncols
    assert figure.get_figwidth() == columns * PANEL[0]
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 6


def test_rejection_axis_ends_where_the_sample_does(drawn):
    """It begins at 1, and ends at the number of background jets: one accepted jet is the smallest efficiency."""
    assert drawn("two classes").axes[1].get_ylim() == (1, 30)
    assert drawn("ten classes").axes[1].get_ylim() == (1, 54)


def test_formats(tmp_path):
    """One file per format; none without formats."""
    drawn = draw_to(tmp_path / "a.png", ("png", "svg"), DRAWINGS["history"])
    assert [path.name for path in drawn] == ["a.png", "a.svg"]
    assert "<svg" in drawn[1].read_text() and drawn[0].read_bytes().startswith(b"\x89PNG")
    assert draw_to(tmp_path / "b.png", (), DRAWINGS["history"]) == [] and not (tmp_path / "b.png").exists()


def test_one_epoch():
    """A run of one epoch has one tick, not fractions of an epoch."""
    axes = Figure().subplots()
    axes.plot([1], [0.5])
    integer_epochs(axes)
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_a_class_has_one_colour(tmp_path, drawn, monkeypatch):
    """In every picture, and also where other classes are absent. Breaks if colours are given out in order."""
    monkeypatch.setitem(DRAWINGS, "few", lambda path: draw_segmentation(path, rows_of(2, ("shower", "delta")), None))
    for name, panel in (("pretraining", 1), ("segmentation", 1), ("few", 1)):
        lines = {line.get_label(): to_hex(line.get_color()) for line in drawn(name).axes[panel].lines}
        for k, label in enumerate(NAMES):
            assert lines.get(label, class_colour(k)) == class_colour(k), (name, label)
    curves = drawn("ten classes").axes[1].lines
    assert [to_hex(line.get_color()) for line in curves[:10]] == [class_colour(k) for k in range(10)]
    assert len({class_colour(k) for k in range(10)}) == 10


def test_tool_has_the_same_colours(tmp_path, drawn, monkeypatch):
    """tools/describe_lartpc.py draws classes in the colours of the other pictures."""
    event = ROOT / "data/sample_data/lartpc/val/lartpc_16_v2.h5"
    monkeypatch.setitem(DRAWINGS, "tool", lambda path: describe_lartpc.draw(event, [0], path))
    for dots in drawn("tool").axes[0].collections:
        assert to_hex(dots.get_facecolor()[0]) == class_colour(PILARNET.class_names.index(dots.get_label()))


def test_classes_have_names(drawn):
    """The curves and the axes of the confusion matrix name the classes; without names there are numbers."""
    figure = drawn("ten classes")
    assert figure.axes[1].lines[2].get_label().startswith("class of c against the rest\nAUC = ")
    assert [text.get_text() for text in figure.axes[2].get_yticklabels()][:2] == ["class of a", "class of b"]
    assert class_name(3, ("a",)) == "class 3"


def test_error_bars_are_explained(drawn):
    """The picture says what its error bars are, and of how many seeds."""
    title = drawn("label budgets").legends[0].get_title().get_text()
    assert title == "error bars: standard deviation over the seeds (3 per point)"
    assert "statistical error" in drawn("two classes").axes[1].get_legend().get_title().get_text()
