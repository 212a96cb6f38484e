"""tools/probe_features.py: the table that compares linear probes."""

import torch

from tests.conftest import ROOT
from tests.layers.clouds import tracks
from tests.tasks.test_masked_modelling import make_task
from tools.probe_features import main, statistics


def test_statistics():
    """The statistics are right, and finite for a token of one point too. Breaks if tokens are mixed up."""
    tokens = make_task().model.encoder.tokenize(*tracks([150, 1]))
    table = statistics(tokens)
    assert table.shape == (len(tokens), 29) and torch.isfinite(table).all()
    assert torch.equal(table[:, 0], tokens.counts.float()) and torch.equal(table[:, 25:28], tokens.centres)
    last = tokens.groups[-int(tokens.counts[-1]) :]
    assert torch.allclose(table[-1, 1:5], last.mean(0)) and torch.allclose(table[-1, 24], last[:, 3].sum())


def test_table(monkeypatch, capsys):
    """Ten rows from a published checkpoint and the sample events. Breaks if another network is probed."""
    monkeypatch.setattr("tools.probe_features.MOST", 200)
    checkpoint, folder = ROOT / "tests/golden/polarmae/polarmae.ckpt", ROOT / "data/sample_data/lartpc"
    main([str(checkpoint), "--datadir", str(folder), "--num-valid", "3"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "| features | shower | track | michel | delta | mean |" and len(lines) == 12
    assert lines[-2].startswith("| encoder, pretrained |") and 0 < float(lines[-2].split("|")[-2]) <= 1
