"""tools/export_onnx.py: files for onnxruntime from checkpoints. Skipped without the packages of the extra `export`."""

import copy
import json
import logging
import re
import sys
from dataclasses import replace

import export_onnx as tool
import h5py
import numpy as np
import pytest
import torch

from puffin.checkpoints.writing import save_checkpoint
from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.runs.entry import DEBUG_HINT, run_script
from puffin.settings.flags import parse
from puffin.settings.jets import ClassifierSettings, RegressorSettings
from tests.conftest import ROOT, relative

TINY = (
    "--num-channels-m [[6]] --num-channels-2to2 [4] --num-channels-m-out [6,4] --num-channels-out 5 "
    "--num-channels-scalar 2"
).split()


@pytest.fixture
def onnxruntime():
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnxruntime")


def save_network(path, network, num_scalars: int, *flags):
    """Save a checkpoint of an untrained network; return the network."""
    schema = ClassifierSettings if network is PelicanClassifier else RegressorSettings
    parsed = parse(schema, "", [*TINY, *flags])
    settings = parsed.settings()
    model = network(replace(settings.network, scale=settings.data.scale, num_scalars=num_scalars)).eval()
    save_checkpoint(path, {"args": parsed.plain(), "git_commit": "c0ffee", "model_state": model.state_dict()})
    return model


def properties(session) -> dict[str, str]:
    """Return the metadata of a file."""
    return session.get_modelmeta().custom_metadata_map


def test_published_checkpoint(onnxruntime, run_folder, tmp_path, capsys):
    """The file gives the published predictions; its metadata describe the network, but not the machine."""
    out = tmp_path / "top.onnx"
    tool.main([str(run_folder / "ref_best.pt"), "--out", str(out)])
    assert re.search(r"agree with PyTorch.*tolerance 1e-05 \(the default\)", capsys.readouterr().out)
    session = onnxruntime.InferenceSession(out)
    with h5py.File(run_folder / "test.h5") as file:
        jets = file["Pmu"][:, : int(properties(session)["nobj"])]
    published = torch.load(run_folder / "ref.best.test.pt", weights_only=True)["predict"]
    scores = np.stack([session.run(["scores"], {"fourmomenta": jet[jet[:, 0] != 0]})[0] for jet in jets[:60]])
    assert relative(torch.from_numpy(scores), published[:60].float()) < 1e-5
    found = properties(session)
    keys = ("kind", "num_classes", "units", "scale", "spurions")
    assert [found[k] for k in keys] == ["classifier", "2", "GeV", "1", "2"]
    assert json.loads(found["network"])["stabilizer"] == "so2"
    content = out.read_bytes()
    assert str(ROOT).encode() not in content and b".py" not in content


def test_regressor_with_scalars(onnxruntime, tmp_path):
    """Inputs and outputs are in GeV for any --scale of the training; the weights of the spurions come first."""
    import onnx

    flags = "--read-pid --scale 0.1 --num-targets 2 --config sX --add-beams --method input --stabilizer se2".split()
    model = save_network(tmp_path / "w.pt", PelicanRegressor, 15, *flags)
    tool.main([str(tmp_path / "w.pt"), "--check-sizes", "1", "4", "--opset", "20"])
    assert onnx.load(tmp_path / "w.onnx").opset_import[0].version == 20
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx")
    p, scalars = tool.random_jets([6], 15)[0]
    assert [x.shape for x in session.get_inputs()] == [["particles", 4], ["particles", 15]]
    momenta, weights = session.run(None, {"fourmomenta": p.numpy(), "scalars": scalars.numpy()})
    assert momenta.shape == (2, 4) and weights.shape == (6 + 2, 2, 2)
    with torch.no_grad():
        expected = model(JetBatch(p * 0.1, torch.tensor([6]), scalars=scalars))
    assert relative(torch.from_numpy(momenta), expected.fourmomenta[0]) < tool.LARGEST_TOLERANCE
    assert relative(torch.from_numpy(weights), expected.weights) < tool.LARGEST_TOLERANCE
    assert json.loads(properties(session)["scalars"]) == [{"key": "pdgid", "columns": 15}]


def test_file_that_disagrees_is_not_written(onnxruntime, tmp_path, monkeypatch):
    """The check finds a wrong network, here one that ignores the scale, and leaves an existing file unchanged."""
    save_network(tmp_path / "q.pt", PelicanClassifier, 0, "--scale", "0.1")
    out = tmp_path / "q.onnx"
    out.write_text("earlier file")
    right = tool.single_jet
    monkeypatch.setattr(tool, "single_jet", lambda model, scale: right(model))
    with pytest.raises(
        InputError, match=r"differs from PyTorch by .*, expected at most \S+ \(.*\); --tolerance sets another"
    ):
        tool.main([str(tmp_path / "q.pt"), "--check-sizes", "3"])
    assert out.read_text() == "earlier file" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "requested, deviation, rounding, tolerance, reason",
    [
        (None, 9e-6, 3e-5, 1e-5, "the default"),
        (None, 5e-5, 1e-6, 1e-5, "the default"),
        (None, 5e-5, 3e-5, 6e-5, "twice PyTorch's own float32 rounding, 3e-05"),
        (None, 3e-4, 3e-3, 1e-4, "the maximum; twice PyTorch's own float32 rounding, 0.003, is larger"),
        (None, float("nan"), 1e-6, 1e-5, "the default"),
        (2e-6, 5e-5, 3e-5, 2e-6, "--tolerance"),
    ],
)
def test_tolerance(monkeypatch, requested, deviation, rounding, tolerance, reason):
    """Breaks if the default allows more than PyTorch's rounding explains, or if --tolerance does not override it."""
    monkeypatch.setattr(tool, "rounding", lambda *args: rounding)
    assert tool.choose_tolerance(requested, deviation, None, 1.0, []) == (tolerance, reason)


def test_rounding_leaves_the_dot_products_alone():
    """Massless particles of 1 TeV, whose m^2 is rounding noise.

    Breaks if the dot products are computed in float64, which would allow large differences of the file; if nothing is
    computed in float64; or if a hook stays on the network.
    """
    model = PelicanClassifier(parse(ClassifierSettings, "", TINY).settings().network).eval()
    direction = torch.nn.functional.normalize(torch.randn(20, 3) * 0.05 + torch.tensor([1.0, 1.0, 1.0]), dim=1)
    jet = (torch.cat([torch.full((20, 1), 1000.0), 1000 * direction], 1),)
    found, batch = tool.rounding(model, 1.0, [jet]), tool.as_batch(jet, 1.0)
    exact = [tool.outputs(copy.deepcopy(model).double(), batch.to("cpu", torch.float64))]
    with_exact_dots = tool.relative(exact, [tool.outputs(model, batch)])[0]
    assert 0 < found < with_exact_dots / 5
    assert not model.input_encoder._forward_pre_hooks and model.linear.weight.dtype == torch.float32


def test_averaged_weights_are_exported(tmp_path):
    """The file contains the averaged weights, as evaluation uses them."""
    path = tmp_path / "q.pt"
    model = save_network(path, PelicanClassifier, 0)
    content = torch.load(path, weights_only=True)
    content["average_state"] = {f"module.{k}": v + 1 for k, v in model.state_dict().items()}
    torch.save(content, path)
    assert torch.equal(tool.load_network(path)[0].linear.weight, model.linear.weight + 1)


def test_missing_packages_are_named(monkeypatch, run_folder):
    """The error names the command that installs the packages, before anything is computed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install .*\[export\]"):
        tool.main([str(run_folder / "ref_best.pt")])


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--opset 9", "argument --opset: expected an integer of at least 18, got '9'"),
        ("--check-sizes 2 0", "argument --check-sizes: expected an integer of at least 1, got '0'"),
        ("--tolerance -1", "argument --tolerance: expected a number of at least 0, got '-1'"),
    ],
)
def test_bad_flags(flags, message, run_folder, capsys):
    """A value out of range is refused, with the flag and the range, before the checkpoint is read."""
    with pytest.raises(SystemExit) as stop:
        tool.main([str(run_folder / "missing.pt"), *flags.split()])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused(onnxruntime, tmp_path):
    """A file that is not a checkpoint, a missing file of jets, and a network that clusters particles."""
    (tmp_path / "bad.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match="checkpoint"):
        tool.main([str(tmp_path / "bad.pt")])
    path = tmp_path / "irc.pt"
    save_network(path, PelicanClassifier, 0, "--irc-safe", "--stabilizer", "so13")
    with pytest.raises(InputError, match="no such file"):
        tool.main([str(path), "--check-file", str(tmp_path / "missing.h5")])
    with pytest.raises(InputError, match="soft-drop"):
        tool.main([str(path)])


def test_errors_name_no_flag_that_the_tool_lacks(tmp_path, capsys, monkeypatch):
    """Breaks if a missing checkpoint is blamed on --loadfile, or an unexpected error advises --log-level."""
    monkeypatch.setattr(logging.getLogger("puffin"), "handlers", [])  # of earlier tests; a tool has none
    with pytest.raises(InputError, match=r"none.pt: no such checkpoint \(.* has no checkpoints: train"):
        tool.load_network(tmp_path / "none.pt")

    def fail(argv):
        raise OSError("disk")

    for hint, expected in (("", "error: OSError: disk\n"), (DEBUG_HINT, "(--log-level debug shows where)\n")):
        with pytest.raises(SystemExit):
            run_script(fail, [], hint)
        assert capsys.readouterr().err.endswith(expected)
    for name in ("export_onnx", "probe_features"):
        assert 'run_script(main, hint="")' in (ROOT / f"tools/{name}.py").read_text(encoding="utf-8")
