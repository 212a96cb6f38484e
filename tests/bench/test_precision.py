"""Scores in several precisions, of the published checkpoint on the jets of its golden run."""

import torch
from torch import nn

from bench import precision
from tests.conftest import ROOT

RUN = ROOT / "tests" / "golden" / "pelican_run"


def test_table_of_a_published_checkpoint(tmp_path):
    """Breaks if a precision is not that of its row: float32 has no difference to itself, the other two have a small
    one."""
    out = tmp_path / "precision.txt"
    precision.main(["--testfile", str(RUN / "test.h5"), str(RUN / "ref_best.pt"), "--out", str(out)])
    rows = {words[0]: words[1:] for line in out.read_text().splitlines() if len(words := line.split()) == 7}
    assert list(rows) == ["float32", "bfloat16", "int8"]
    assert float(rows["float32"][3]) == 0
    assert 0 < float(rows["int8"][3]) < 0.5
    assert float(rows["bfloat16"][3]) < 0.2


def test_weights_are_rounded_by_row():
    """Each row has at most 255 values, the largest exactly as before; vectors stay. Breaks with one scale for all."""
    layer = nn.Linear(1000, 2)
    with torch.no_grad():
        layer.weight[1] *= 1e-3
    before = {name: value.clone() for name, value in layer.named_parameters()}
    precision.round_weights_(layer)
    for row, old in zip(layer.weight, before["weight"], strict=True):
        assert len(row.unique()) <= 255 and torch.isclose(row.abs().max(), old.abs().max())
        assert ((row - old).abs() <= old.abs().max() / 254 * 1.001).all()
    assert torch.equal(layer.bias, before["bias"])
