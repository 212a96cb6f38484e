"""Curves of a pretraining run."""

from puffin.plots.curves import draw_pretraining

NAN = float("nan")


def test_with_and_without_probe(tmp_path):
    """Rows without a probe or without validation, and a run of one row, are drawn.

    Breaks if the plot needs a column that is missing."""
    rows = [
        {
            "step": k,
            "train_loss": 1 / k,
            "valid_loss": 2 / k,
            "valid_chamfer": 1 / k,
            "valid_probe_f1_a": f,
            "valid_probe_f1_mean": f,
        }
        for k, f in ((1, NAN), (2, 0.5), (3, NAN))
    ]
    sizes = []
    for name, history in (("all", rows), ("unprobed", rows[:1]), ("bare", [{"step": 1, "train_loss": 1.0}])):
        draw_pretraining(tmp_path / f"{name}.png", history, None)
        sizes.append((tmp_path / f"{name}.png").stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2] > 0
