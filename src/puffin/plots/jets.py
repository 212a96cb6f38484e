"""Figures of runs on jets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from puffin.metrics.calibration import Reliability, wilson_interval
from puffin.metrics.classification import Roc, confusion, one_vs_rest
from puffin.plots.responses import draw_responses
from puffin.plots.style import (
    NETWORK,
    PANEL,
    POINTS_OF_CURVE,
    REFERENCE,
    TRAINING,
    VALIDATION,
    class_colour,
    class_name,
    integer_epochs,
    legend_below,
    legend_beside,
    page,
    save,
    styled,
)

_WIDE = (5.0, 3.8)  # inches, of a panel with a legend of many classes beside it


@styled
def draw_classification(path: Path, history: list[dict], outputs: dict | None, names: Sequence[str] = ()) -> None:
    """Draw the losses, the ROC curves and, for more than two classes, the confusion matrix, to one PNG.

    The ROC curves show background rejection against signal efficiency. history: one dict per epoch; outputs: `predict`
    (N, K) and `targets` (N,) of the test set, or None; names: of the classes, else their numbers."""
    arrays = None if outputs is None else (outputs["predict"].double().numpy(), outputs["targets"].numpy())
    multi_class = arrays is not None and arrays[0].shape[1] > 2
    curves = [] if arrays is None else one_vs_rest(*arrays)
    any_curve = any(curve is not None for curve in curves)
    size = _WIDE if multi_class else PANEL
    figure, axes = page(1 + any_curve + multi_class, 1, *size)
    draw_losses(axes[0][0], history)
    if any_curve:
        assert arrays is not None
        backgrounds = [int((arrays[1] != (c if multi_class else 1)).sum()) for c in range(len(curves))]
        draw_rejections(axes[0][1], curves, backgrounds, names)
    if multi_class:
        draw_confusion(axes[0][-1], confusion(*arrays), names)
    save(figure, path)


@styled
def draw_regression(path: Path, history: list[dict], outputs: dict | None) -> None:
    """Draw the losses and, for each target, the response of mass, pT and angle, to one PNG.

    The response of the network is compared with that of the sum of the jet's constituents. history: one dict per epoch;
    outputs: `predict`, `targets` (N, T, 4) and `jet` (N, 4) of the test set, or None."""
    true = torch.zeros(0, 0, 4) if outputs is None else outputs["targets"]
    targets = true.shape[1]
    columns, rows = {0: (1, 1), 1: (2, 2)}.get(targets, (3, 1 + targets))  # of several targets one in each row
    figure, axes = page(columns, rows)
    axes = list(axes.flat)
    draw_losses(axes[0], history)
    first = 1 if targets == 1 else columns
    for t in range(targets):
        estimates = {"sum of constituents": outputs["jet"], "this network": outputs["predict"][:, t]}
        name = "" if targets == 1 else f", target {t}"
        draw_responses(axes[first + 3 * t : first + 3 * t + 3], estimates, true[:, t], name)
    for unused in axes[1:first]:
        unused.set_axis_off()
    save(figure, path)


def draw_losses(axes, history: list[dict]) -> None:
    """Draw the training and validation loss against the epoch."""
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 30 else None
    axes.plot(epochs, [row["train_loss"] for row in history], marker=marker, ms=3, c=TRAINING, label="training")
    if "valid_loss" in history[0]:
        losses = [row["valid_loss"] for row in history]
        axes.plot(epochs, losses, marker=marker, ms=3, c=VALIDATION, label="validation")
    axes.set(ylabel="loss per jet", title="Loss")
    integer_epochs(axes)
    legend_below(axes, ncols=2)
    axes.grid(alpha=0.3)


def draw_rejections(axes, curves: Sequence[Roc | None], backgrounds: Sequence[int], names: Sequence[str] = ()) -> None:
    """Draw the background rejection 1/eB against the signal efficiency, logarithmic; one curve, or one per class.

    backgrounds: number of background jets of each curve, from which the statistical error of eB follows. The axis ends
    at the largest of them: no sample shows a higher rejection."""
    for c, (curve, number) in enumerate(zip(curves, backgrounds, strict=True)):
        if curve is None:
            continue
        alone = len(curves) == 1
        label, colour = (
            ("this network", NETWORK) if alone else (f"{class_name(c, names)} against the rest", class_colour(c))
        )
        shown = curve.thinned(POINTS_OF_CURVE)
        shown = Roc(*(column[shown.background > 0] for column in shown))
        axes.step(shown.signal, 1 / shown.background, where="post", c=colour, label=f"{label}\nAUC = {curve.area:.4f}")
        axes.fill_between(
            shown.signal, *rejection_band(shown.background, number), step="post", color=colour, alpha=0.2, lw=0
        )
    efficiency = np.linspace(0.01, 1, 200)
    axes.plot(efficiency, 1 / efficiency, ":", color="black", lw=1, label="chance")
    signal = class_name(1, names) if len(curves) == 1 and names else "signal"
    axes.set(
        xlabel=f"{signal} efficiency",
        ylabel=r"background rejection 1 / $\varepsilon_B$",
        title="ROC on the test set",
        yscale="log",
        xlim=(0, 1),
        ylim=(1, max(10, *backgrounds)),
    )
    if len(curves) == 1:
        legend_below(axes, ncols=2, title="band: statistical error (68%) of the rejection")
    else:
        legend_beside(axes, title="bands: statistical error\n(68%) of the rejection")
    axes.grid(alpha=0.3, which="both")


def rejection_band(background: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the lowest and highest rejections (N,) that agree with background efficiencies (N,) above 0.

    They are one standard deviation away, by Wilson's interval for `number` background jets."""
    low, high = wilson_interval(background, number)
    return 1 / np.minimum(high, 1), 1 / np.maximum(low, 1e-30)


@styled
def draw_reliability(path: Path, before: Reliability, after: Reliability, temperature: float) -> None:
    """Draw accuracy against confidence, and the fraction of the jets in each bin, to one PNG.

    before, after: of the probabilities without and with the temperature."""
    figure, ((curves, fractions),) = page(2)
    curves.plot([0, 1], [0, 1], ":", color="black", lw=1, label="perfect calibration")
    for bins, label, colour in (
        (before, "as trained", REFERENCE),
        (after, f"temperature {temperature:.3g}", NETWORK),
    ):
        filled = bins.fraction > 0
        name = f"{label}\nECE = {bins.error:.4f}"
        curves.plot(bins.confidence[filled], bins.accuracy[filled], "o-", ms=4, c=colour, label=name)
        fractions.stairs(bins.fraction, np.linspace(0, 1, len(bins.fraction) + 1), color=colour, lw=2, label=label)
    shown = [bins.confidence[bins.fraction > 0] for bins in (before, after)]
    left = min(column.min(initial=1) for column in shown)
    for axes in (curves, fractions):
        axes.set(xlabel="confidence (probability of the predicted class)", xlim=(max(left - 0.05, 0), 1))
        axes.grid(alpha=0.3)
        legend_below(axes, ncols=2)
    curves.set(ylabel="accuracy", ylim=(max(left - 0.05, 0), 1.02), title="Reliability on the evaluated jets")
    fractions.set(ylabel="fraction of the jets", title="Confidences")
    save(figure, path)


def draw_confusion(
    axes, table: np.ndarray, names: Sequence[str] = (), title: str = "Confusion on the test set"
) -> None:
    """Draw the fractions of each true class (rows) that are predicted as each class (columns).

    table (C, C): numbers of events or points; names: of the classes; without names the axes show class numbers. A row
    without events is empty."""
    totals = table.sum(1, keepdims=True)
    fractions = np.divide(table, totals, out=np.full(table.shape, np.nan), where=totals > 0)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), fraction in np.ndenumerate(fractions):
        colour = "white" if fraction > 0.5 else "black"
        text = "-" if np.isnan(fraction) else f"{fraction:.2f}"
        axes.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=8 if len(table) < 8 else 6)
    labels = [names[c] if c < len(names) else str(c) for c in range(len(table))]
    longest = max(map(len, labels), default=0)
    axes.set(xticks=range(len(table)), yticks=range(len(table)), yticklabels=labels)
    if longest * len(table) > 40:
        axes.set_xticklabels(labels, rotation=30, ha="right")
    else:
        axes.set_xticklabels(labels)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{title}\n(fractions of rows)")
