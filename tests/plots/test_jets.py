"""Pictures are written for every kind of run, also where a curve does not exist."""

import pytest
import torch

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
