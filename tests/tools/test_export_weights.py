"""tools/export_weights.py: a small checkpoint labels events like the large one."""

import export_weights as tool
import pytest
import torch

import puffin
from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.writing import rng_state, save_checkpoint
from puffin.errors import InputError
from puffin.models.pelican import PelicanClassifier
from puffin.settings.flags import parse
from puffin.settings.jets import ClassifierSettings
from tests.tools.test_export_onnx import TINY


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a run, with the state of an optimizer and averaged weights."""
    flags = parse(ClassifierSettings, "", TINY)
    torch.manual_seed(1)
    model = PelicanClassifier(flags.settings().network)
    average = {f"module.{name}": weight + 0.25 for name, weight in model.named_parameters()}
    settings = flags.values | {"datadir": "/a/folder/of/this/machine"}
    content = {"git_commit": "abc", "run_id": "r1", "args": settings, "model_state": model.state_dict()}
    save_checkpoint(
        tmp_path / "run.pt", content | {"average_state": average, "optimizer": [torch.ones(9999)], "rng": rng_state()}
    )
    return tmp_path / "run.pt"


@pytest.mark.parametrize("half", [False, True])
def test_small_checkpoint_has_the_evaluated_weights(checkpoint, tmp_path, half):
    """Breaks if averaged weights, settings or the commit are lost, or the state of the training or a folder stays."""
    out = tmp_path / "small.pt"
    tool.main([str(checkpoint), str(out), *["--half"] * half])
    large, small = Checkpoint.read(checkpoint), Checkpoint.read(out)
    assert large.settings.items() >= small.settings.items() and len(small.settings) > 60
    assert {"workdir", "datadir"} < large.settings.keys() - small.settings.keys()
    assert small.commit == "abc" and small.run_id == "r1"
    assert small.state is None and out.stat().st_size < checkpoint.stat().st_size - 9999
    for name, weight in large.weights.items():
        assert torch.allclose(small.weights[name].to(weight.dtype), weight, rtol=1e-3 * half, atol=1e-6 * half)
    puffin.load(out)


def test_refusals(checkpoint, tmp_path):
    """Breaks if an existing file is replaced without being asked for."""
    out = tmp_path / "small.pt"
    out.write_text("precious")
    with pytest.raises(InputError, match="already exists"):
        tool.main([str(checkpoint), str(out)])
    assert out.read_text() == "precious"
    tool.main([str(checkpoint), str(out), "--overwrite"])
    with pytest.raises(InputError, match="no such checkpoint"):
        tool.main([str(tmp_path / "none.pt"), str(tmp_path / "x.pt")])
