"""Experiment trackers: what they get from a run, offline."""

import math
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch

import train_pelican_classifier as script
from puffin.errors import InputError, MissingOutputs
from puffin.runs import trackers
from puffin.runs.paths import RunPaths
from puffin.runs.side_outputs import SideOutputs
from puffin.settings.common import TRACKERS
from puffin.settings.flags import parse
from puffin.settings.jets import ClassifierSettings
from tests.patience import wait_until
from tests.runs.test_classifier_script import command


def made_up_run(tmp_path, *flags):
    """Return what trackers need of a run with the prefix tiny."""
    flags = parse(ClassifierSettings, "", ["--prefix", "tiny", "--nobj", "12", *flags])
    start = SimpleNamespace(flags=flags, run_id="0123456789abcdef", evaluating=False)
    return SimpleNamespace(settings=flags.settings(), start=start, paths=RunPaths("tiny", *[tmp_path / "log"] * 3))


def follow(run, steps, failed=False) -> dict:
    """Let the trackers of a run follow some steps; return what could not be written."""
    picture, weights = run.paths.logdir / "tiny.png", run.paths.logdir / "tiny.pt"
    picture.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.image.imsave(picture, np.zeros((4, 5, 3)))
    torch.save({}, weights)
    side = SideOutputs()
    try:
        with trackers.Trackers(run, side) as tracking:
            tracking.start()
            for step in steps:
                tracking.numbers({"valid_loss": 1 / step, "valid_AUC": math.nan, "text": "ignored"}, step)
            tracking.files([picture, picture.with_name("missing.png")], [weights])
            if failed:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return side.failures


def test_tensorboard(tmp_path):
    """Numbers at their steps, the settings, and the picture."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = made_up_run(tmp_path, "--tracker", "tensorboard", "--track-checkpoints")
    assert follow(run, [1, 2]) == {}
    found = EventAccumulator(str(run.paths.folder)).Reload()
    assert [(entry.step, entry.value) for entry in found.Scalars("valid_loss")] == [(1, 1.0), (2, 0.5)]
    assert "text" not in found.Tags()["scalars"] and found.Images("tiny")[0].step == 2
    texts = [found.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0] for tag in ("settings", "checkpoints")]
    assert b"nobj: 12" in texts[0] and b"tiny.pt" in texts[1]


def test_weights_and_biases(tmp_path, monkeypatch):
    """Breaks if an offline run needs a login, or lacks its numbers, settings or picture."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = made_up_run(tmp_path, "--tracker", "wandb")
    assert follow(run, [1, 2]) == {}
    (record,) = run.paths.folder.glob("wandb/offline-run-*-0123456789abcdef/run-*.wandb")
    wait_until(lambda: b"valid_loss" in record.read_bytes())  # another process writes it
    assert b"nobj" in record.read_bytes() and b"tiny.pt" not in record.read_bytes()
    assert list(record.parent.glob("files/media/images/tiny*.png"))


def test_mlflow(tmp_path, monkeypatch):
    """A run that is resumed stays one run. Breaks if its earlier numbers are lost, or checkpoints come unasked."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes seconds to create
    assert follow(made_up_run(tmp_path, "--tracker", "mlflow"), [1, 2], failed=True) == {}
    assert follow(made_up_run(tmp_path, "--tracker", "mlflow", "--track-checkpoints"), [3]) == {}
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("puffin").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["nobj"] == "12"
    history = client.get_metric_history(found.info.run_id, "valid_loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    files = [
        file.path for folder in ("pictures", "checkpoints") for file in client.list_artifacts(found.info.run_id, folder)
    ]
    assert files == ["pictures/tiny.png", "checkpoints/tiny.pt"]


def test_a_training(small_jets, tmp_path, monkeypatch):
    """Rows, final metrics and the curves reach a tracker once, and an evaluation none."""
    calls = []

    class Recorder:
        def __init__(self, run):
            calls.append("open")

        def numbers(self, values, step):
            calls.append((step, sorted(values)))

        def picture(self, path, step):
            calls.append(path.name)

        def artefact(self, path):
            calls.append(path.name)

        def close(self, failed):
            calls.append(f"close {failed}")

    monkeypatch.setitem(trackers.KINDS, "tensorboard", Recorder)
    flags = ["--summarize", "--tracker", "tensorboard", "--track-checkpoints"]
    script.main(command(small_jets, tmp_path, *flags))
    assert calls[0] == "open" and calls[-4:] == ["tiny.png", "tiny.pt", "tiny_best.pt", "close False"]
    numbers = calls[1:-4]
    assert [step for step, _ in numbers] == [1, 2, 2, 2] and "valid_loss" in numbers[0][1]
    assert "final_test_AUC" in numbers[2][1] and "best_test_AUC" in numbers[3][1]
    calls.clear()
    script.main(command(small_jets, tmp_path, *flags, "--eval", "--overwrite", "--predict", "test"))
    assert calls == []


def test_a_tracker_that_fails(small_jets, tmp_path, monkeypatch):
    """Breaks if a server that does not answer ends a training."""

    def fail(run):
        raise ConnectionError("no server")

    monkeypatch.setitem(trackers.KINDS, "tensorboard", fail)
    with pytest.raises(MissingOutputs, match=r"tracker tensorboard \(no server\)"):
        script.main(command(small_jets, tmp_path, "--tracker", "tensorboard"))
    assert (tmp_path / "model/tiny_best.pt").exists()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package(small_jets, tmp_path, monkeypatch, name):
    """The error comes before the run. Breaks if it comes after hours, or replaces an earlier run."""
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"--tracker {name}: the Python package '{name}' is not installed"):
        script.main(command(small_jets, tmp_path, "--tracker", name))
    assert list(tmp_path.iterdir()) == []
