"""Pictures are written for every kind of run, also where a curve does not exist."""

import pytest
import torch
from matplotlib.figure import Figure

from puffin.plots.jets import draw_classification, draw_regression

HISTORY = [{"epoch": e, "train_loss": 1 / e, "valid_loss": 1.1 / e} for e in (1, 2, 3)]


@pytest.mark.parametrize("num_classes, target", [(2, "both"), (2, "one"), (4, "both"), (2, None)])
def test_classification(tmp_path, num_classes, target):
    """Two classes, one of them absent, several, no test set."""
    outputs = None
    if target is not None:
        targets = torch.arange(40) % num_classes if target == "both" else torch.zeros(40, dtype=torch.long)
        outputs = {"predict": torch.randn(40, num_classes), "targets": targets}
    draw_classification(tmp_path / "a.png", HISTORY, outputs)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("num_targets", [0, 1, 2])
def test_regression(tmp_path, num_targets):
    """No test set, one target, two."""
    outputs = None
    if num_targets:
        true = torch.randn(50, num_targets, 4) + torch.tensor([100.0, 20, 0, 0])
        outputs = {"predict": true + torch.randn_like(true), "targets": true, "jet": true[:, 0] * 1.1}
    draw_regression(tmp_path / "a.png", HISTORY, outputs)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_labels_lie_in_the_picture(tmp_path, monkeypatch):
    """Breaks if the layout is that of other tick labels than those drawn, as these losses get longer ones."""
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self) or savefig(self, *a, **k))
    losses = [(0.414, 0.2701), (0.286, 0.269), (0.273, 0.2564), (0.268, 0.251), (0.266, 0.2468), (0.2577, 0.2461)]
    history = [{"epoch": k + 1, "train_loss": t, "valid_loss": v} for k, (t, v) in enumerate(losses)]
    random = torch.Generator().manual_seed(0)
    outputs = {"predict": torch.randn(200, 2, generator=random), "targets": torch.arange(200) % 2}
    draw_classification(tmp_path / "x.png", history, outputs)
    assert all(axes.yaxis.label.get_window_extent().x0 >= 0 for axes in figures[0].axes)
