"""Curves of a pretraining run."""

from pathlib import Path


def draw_pretraining(path: Path, history: list[dict], outputs: dict | None) -> None:
    """Losses and, where it was made, the F1 of the linear probe against the step, to one PNG.

    history: a dict for each validation, or epoch; outputs: not needed."""
    from matplotlib.figure import Figure  # slow to import; Figure needs no display

    probed = [row for row in history if row.get("valid_probe_f1_mean", float("nan")) == row.get("valid_probe_f1_mean", 0)]
    figure = Figure(figsize=(10 if probed else 5.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if probed else 1, squeeze=False)[0]
    curves = {"train_loss": "training (turned events)"}
    curves |= {f"valid_{name}": f"validation: {name}" for name in ("loss", "chamfer", "energy")}
    for name, label in curves.items():
        if name in history[0]:
            _curve(axes[0], history, name, label)
    axes[0].set(xlabel="step", ylabel="loss per hidden token", title="Masked modelling", yscale="log")
    if probed:
        names = [name for name in probed[0] if name.startswith("valid_probe_f1_")]
        for name in sorted(names, key=lambda name: name.endswith("mean")):
            _curve(axes[1], probed, name, name.removeprefix("valid_probe_f1_"), lw=3 if name.endswith("mean") else 1.2)
        axes[1].set(xlabel="step", ylabel="F1", title="Linear probe on tokens of validation events", ylim=(0, 1))
        axes[1].legend(fontsize=8, loc="upper center", ncols=3)  # above all but perfect scores
    axes[0].legend(fontsize=8)
    for ax in axes:
        ax.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130)


def _curve(axes, rows: list[dict], name: str, label: str, lw: float = 1.6) -> None:
    axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker="o" if len(rows) < 30 else None, ms=3, lw=lw, label=label)
