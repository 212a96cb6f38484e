"""Learning curves of runs on point clouds."""

from collections.abc import Sequence
from pathlib import Path

from puffin.detector import PILARNET
from puffin.plots.jets import draw_confusion
from puffin.plots.style import TRAINING, VALIDATION, class_colour, integer_epochs, legend_below, page, save, styled

_HEIGHT = 3.3  # inches, of a panel with a legend of several lines below it
_LOSSES = {"train_loss": TRAINING, "valid_loss": VALIDATION, "valid_chamfer": "#7f4f24", "valid_energy": "#e69f00"}


@styled
def draw_pretraining(path: Path, history: list[dict], outputs: dict | None) -> None:
    """Draw the losses and the F1 of the linear probe, if there was one, against the step, to one PNG.

    history: one dict per validation or epoch; outputs is not used."""
    probed = [
        row for row in history if row.get("valid_probe_f1_mean", float("nan")) == row.get("valid_probe_f1_mean", 0)
    ]
    figure, (axes,) = page(2 if probed else 1, height=_HEIGHT)
    curves = {"train_loss": "training (rotated events)"}
    terms = ("loss", "chamfer", "occupancy_", "energy")
    validated = [name for name in history[0] if name.startswith(tuple(f"valid_{term}" for term in terms))]
    curves |= {name: name.replace("valid_", "validation: ") for name in validated}
    for name, label in curves.items():
        if name in history[0]:
            _curve(axes[0], history, name, label, colour=_LOSSES.get(name))
    axes[0].set(ylabel="loss", title="Pretraining", yscale="log")
    if probed:
        names = [name for name in probed[0] if name.startswith("valid_probe_f1_")]
        for name in sorted(names, key=lambda name: name.endswith("mean")):
            of_class = name.removeprefix("valid_probe_f1_")
            if of_class == "mean":
                _curve(axes[1], probed, name, of_class, lw=3, colour="black")
            else:
                _curve(axes[1], probed, name, of_class, lw=1.2, colour=_colour_of(of_class))
        axes[1].set(ylabel="F1", title="Linear probe on validation events", ylim=(0, 1))
    for ax in axes:
        integer_epochs(ax, "step")
        legend_below(ax, ncols=2)
        ax.grid(alpha=0.3, which="both")
    save(figure, path)


@styled
def draw_segmentation(path: Path, history: list[dict], outputs: dict | None) -> None:
    """Draw the losses, the F1 of the classes, and the confusion matrix of the test set, to one PNG.

    history: one dict per validation or epoch; outputs: `confusion` (C, C) of the test set, or None."""
    scored = "valid_f1_macro" in history[0]
    figure, (axes,) = page(1 + scored + bool(outputs), height=_HEIGHT)
    for name, label in {"train_loss": "training", "valid_loss": "validation"}.items():
        if name in history[0]:
            _curve(axes[0], history, name, label, colour=_LOSSES[name])
    axes[0].set(ylabel="loss", title="Segmentation")
    curves = axes[: 1 + scored]
    if scored:
        for name in PILARNET.class_names:
            if f"valid_f1_{name}" in history[0]:
                _curve(axes[1], history, f"valid_f1_{name}", name, lw=1.2, colour=_colour_of(name))
        _curve(axes[1], history, "valid_f1_macro", "macro", lw=3, colour="black")
        axes[1].set(ylabel="F1", title="Points of validation events", ylim=(0, 1))
    for ax in curves:
        integer_epochs(ax, "step")
        legend_below(ax, ncols=3)
        ax.grid(alpha=0.3)
    if outputs:
        table = outputs["confusion"].numpy()
        draw_confusion(axes[-1], table, PILARNET.class_names[: len(table)])
    save(figure, path)


@styled
def draw_confusion_page(path: Path, table, names: Sequence[str]) -> None:
    """Draw a confusion matrix (C, C) of the classes `names` to one PNG."""
    figure, ((axes,),) = page()
    draw_confusion(axes, table, names, "Confusion of points")
    save(figure, path)


def _colour_of(name: str) -> str | None:
    """Return the colour of a class of points by its name; None, the next free colour, for a name without one."""
    return class_colour(PILARNET.class_names.index(name)) if name in PILARNET.class_names else None


def _curve(axes, rows: list[dict], name: str, label: str, lw: float = 1.6, colour: str | None = None) -> None:
    style = {"marker": "o" if len(rows) < 30 else None, "ms": 3, "lw": lw, "color": colour, "label": label}
    axes.plot([row["step"] for row in rows], [row[name] for row in rows], **style)
