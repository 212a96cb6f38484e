"""Pictures of a jet run."""

from pathlib import Path

import numpy as np

from ..metrics.classification import binary_roc


def draw_classification(path: Path, history: list[dict], outputs: dict | None) -> None:
    """Loss curves and, for two classes, the ROC curve as rejection against signal efficiency, to one PNG.

    history: a dict per epoch; outputs: predict (N, K) and targets (N,) of the test set, or None."""
    from matplotlib.figure import Figure  # slow to import; Figure needs no display

    roc = None
    if outputs is not None and outputs["predict"].shape[1] == 2:
        roc = binary_roc(outputs["predict"].double().numpy(), outputs["targets"].numpy())
    figure = Figure(figsize=(11 if roc else 5.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if roc else 1, squeeze=False)[0]
    draw_losses(axes[0], history)
    if roc is not None:
        draw_rejection(axes[1], roc)
    figure.savefig(path, dpi=130)


def draw_losses(axes, history: list[dict]) -> None:
    """Training and validation loss against the epoch."""
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 30 else None
    axes.plot(epochs, [row["train_loss"] for row in history], marker=marker, ms=3, label="training")
    if "valid_loss" in history[0]:
        axes.plot(epochs, [row["valid_loss"] for row in history], marker=marker, ms=3, label="validation")
    axes.set(xlabel="epoch", ylabel="loss per jet", title="Loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    axes.grid(alpha=0.3)


def draw_rejection(axes, roc) -> None:
    """Background rejection 1/eB against signal efficiency, logarithmic."""
    seen = roc.background > 0
    area = float(np.trapezoid(roc.signal, roc.background))
    axes.step(roc.signal[seen], 1 / roc.background[seen], where="post", label=f"this network, AUC = {area:.4f}")
    efficiency = np.linspace(0.01, 1, 200)
    axes.plot(efficiency, 1 / efficiency, ":", color="grey", label="chance")
    axes.set(xlabel="signal efficiency", ylabel="background rejection 1 / efficiency", title="ROC on the test set", yscale="log", xlim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3, which="both")
