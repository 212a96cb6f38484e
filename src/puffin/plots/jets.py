"""Figures of runs on jets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puffin.losses.momenta import angle, mass, transverse_momentum
from puffin.metrics.classification import confusion, one_vs_rest
from puffin.metrics.regression import half_width, relative_error


def _page(columns: int, rows: int = 1, width: float = 5.5):
    from matplotlib.figure import Figure  # slow to import; Figure needs no display

    figure = Figure(figsize=(width * columns, 4.2 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_classification(path: Path, history: list[dict], outputs: dict | None) -> None:
    """Draw the losses, the ROC curves and, for more than two classes, the confusion matrix, to one PNG.

    The ROC curves show background rejection against signal efficiency. history: one dict per epoch; outputs: `predict`
    (N, K) and `targets` (N,) of the test set, or None."""
    arrays = None if outputs is None else (outputs["predict"].double().numpy(), outputs["targets"].numpy())
    multi_class = arrays is not None and arrays[0].shape[1] > 2
    curves = [] if arrays is None else one_vs_rest(*arrays)
    any_curve = any(curve is not None for curve in curves)
    figure, axes = _page(1 + any_curve + multi_class)
    draw_losses(axes[0][0], history)
    if any_curve:
        draw_rejections(axes[0][1], curves)
    if multi_class:
        draw_confusion(axes[0][-1], confusion(*arrays))
    figure.savefig(path, dpi=130)


def draw_regression(path: Path, history: list[dict], outputs: dict | None) -> None:
    """Draw the losses and, for each target, the response of mass, pT and angle, to one PNG.

    The response of the network is compared with that of the sum of the jet's constituents. history: one dict per epoch;
    outputs: `predict`, `targets` (N, T, 4) and `jet` (N, 4) of the test set, or None."""
    true = torch.zeros(0, 0, 4) if outputs is None else outputs["targets"].double()
    panels = 1 + 3 * true.shape[1]
    columns = min(panels, 2 if panels <= 4 else 4)
    figure, axes = _page(columns, -(-panels // columns))
    axes = list(axes.flat)
    draw_losses(axes[0], history)
    for t in range(true.shape[1]):
        estimates = {"sum of constituents": outputs["jet"].double(), "this network": outputs["predict"][:, t].double()}
        draw_responses(
            axes[1 + 3 * t : 4 + 3 * t], estimates, true[:, t], "" if true.shape[1] == 1 else f", target {t}"
        )
    for unused in axes[panels:]:
        unused.set_axis_off()
    figure.savefig(path, dpi=130)


def draw_losses(axes, history: list[dict]) -> None:
    """Draw the training and validation loss against the epoch."""
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 30 else None
    axes.plot(epochs, [row["train_loss"] for row in history], marker=marker, ms=3, label="training")
    if "valid_loss" in history[0]:
        axes.plot(epochs, [row["valid_loss"] for row in history], marker=marker, ms=3, label="validation")
    axes.set(xlabel="epoch", ylabel="loss per jet", title="Loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    axes.grid(alpha=0.3)


def draw_rejections(axes, curves) -> None:
    """Draw the background rejection 1/eB against the signal efficiency, logarithmic; one curve, or one per class."""
    for c, curve in enumerate(curves):
        if curve is None:
            continue
        shown = curve.background > 0
        area = float(np.trapezoid(curve.signal, curve.background))
        label = "this network" if len(curves) == 1 else f"class {c} against the rest"
        axes.step(curve.signal[shown], 1 / curve.background[shown], where="post", label=f"{label}, AUC = {area:.4f}")
    efficiency = np.linspace(0.01, 1, 200)
    axes.plot(efficiency, 1 / efficiency, ":", color="grey", label="chance")
    axes.set(
        xlabel="signal efficiency",
        ylabel="background rejection 1 / efficiency",
        title="ROC on the test set",
        yscale="log",
        xlim=(0, 1),
    )
    axes.legend()
    axes.grid(alpha=0.3, which="both")


def draw_confusion(
    axes, table: np.ndarray, names: Sequence[str] = (), title: str = "Confusion on the test set"
) -> None:
    """Draw the fractions of each true class (rows) that are predicted as each class (columns).

    table (C, C): numbers of events or points; names: of the classes; without names the axes show class numbers."""
    fractions = table / np.maximum(table.sum(1, keepdims=True), 1e-30)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), fraction in np.ndenumerate(fractions):
        colour = "white" if fraction > 0.5 else "black"
        axes.text(predicted, true, f"{fraction:.2f}", ha="center", va="center", color=colour)
    ticks = {"xticks": range(len(fractions)), "yticks": range(len(fractions))}
    ticks |= {"xticklabels": names, "yticklabels": names} if names else {}
    axes.set(**ticks, xlabel="predicted class", ylabel="true class", title=f"{title} (fractions of rows)")


def draw_responses(axes, estimates: dict[str, Tensor], true: Tensor, name: str) -> None:
    """Draw histograms of the relative errors of mass and pT and of the angle, of estimates (N, 4), to three axes."""
    errors = (
        ("mass", "(m - m') / m'", lambda p: relative_error(mass(p).abs(), mass(true).abs()), (-0.6, 0.6)),
        (
            "transverse momentum",
            "(pT - pT') / pT'",
            lambda p: relative_error(transverse_momentum(p), transverse_momentum(true)),
            (-0.4, 0.4),
        ),
        ("direction", "angle to the true momentum [rad]", lambda p: angle(p, true), (0.0, 0.3)),
    )
    for ax, (title, xlabel, error, limits) in zip(axes, errors, strict=True):
        for label, p in estimates.items():
            values = error(p)
            if limits[0] < 0:
                width = f"half of 16-84%: {half_width(values):.3f}"
            else:
                width = f"68% below {float(torch.quantile(values, 0.68)):.4f}"
            ax.hist(
                values.clamp(*limits).numpy(), bins=60, range=limits, histtype="step", lw=1.6, label=f"{label}\n{width}"
            )
        ax.set(xlabel=xlabel, ylabel="jets", title=f"Response: {title}{name}", xlim=limits)
        ax.legend(fontsize=8)
        ax.grid(alpha=0.3)
