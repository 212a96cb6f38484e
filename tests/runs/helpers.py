"""Flags, checks and small files that the tests of the scripts share."""

import csv
import os
import signal

import h5py
import numpy as np
import pytest
import torch

from puffin.checkpoints.reading import read_checkpoint
from puffin.runs.entry import run_script

# A PELICAN network, masked autoencoders (with TINY_CLOUDS, or TINY_TRAINING for a U-Net), and trainings on clouds,
# which take seconds on a CPU
TINY_PELICAN = (
    "--num-channels-m [[6],[6]] --num-channels-2to2 [4,4] --num-channels-m-out [6,4] --num-channels-out 6 "
    "--num-channels-scalar 2 --cpu --threads 1"
).split()
TINY_AUTOENCODER = "--arch vit_tiny --depth 1 --decoder-depth 1".split()
TINY_UNET = "--backbone unet --unet-width 4 --unet-levels 4 --geometry".split()
TINY_TRAINING = "--min-points 50 --batch-size 3 --cpu --threads 1 --num-epoch 2 --prefix tiny".split()
TINY_CLOUDS = ["--group-size", "8", "--context", "60", *TINY_TRAINING]


def existing_run(data, work, *flags, prefix="tiny") -> list[str]:
    """Return the flags that resume (--load) or evaluate (--eval) the run of a prefix, on the CPU."""
    return [*flags, "--cpu", "--prefix", prefix, "--datadir", str(data), "--workdir", str(work)]


def refused_by(main, argv, capsys) -> str:
    """Run a script that must fail, with an exit status other than 0; return the last line that it prints."""
    with pytest.raises(SystemExit) as stop:
        run_script(main, argv)
    assert stop.value.code not in (0, None)
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


def stop_in_training_step(monkeypatch, task, number, main, argv) -> None:
    """Run a script and send SIGTERM at the start of one training step; the script must end because of it.

    task: class of the task; number: of the step, counted from 1."""
    step, calls = task.step, []

    def step_and_signal(self, batch):
        calls.append(self.model.training)
        if sum(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.undo()
        return step(self, batch)

    monkeypatch.setattr(task, "step", step_and_signal)
    with pytest.raises(SystemExit) as stop:
        run_script(main, argv)
    assert stop.value.code == 128 + signal.SIGTERM


def check_resumed(main, data, folder, *flags) -> list[dict]:
    """Resume the run in folder/cut. Its weights and numbers must equal those of the whole run in folder/whole.

    flags: further flags of the resumed run. Returns the history."""
    main(existing_run(data, folder / "cut", "--load", "--threads", "1", *flags))
    for name in ("model/tiny.pt", "model/tiny_best.pt"):
        assert same(weights(folder / "whole" / name), weights(folder / "cut" / name))
    whole, cut = (read_checkpoint(folder / k / "model/tiny.pt")["progress"]["history"] for k in ("whole", "cut"))
    for a, b in zip(whole, cut, strict=True):
        assert {k: v for k, v in a.items() if "second" not in k and v == v} == {
            k: v for k, v in b.items() if "second" not in k and v == v
        }
    return whole


def copy_jets(source, target, keys, number) -> None:
    """Copy the first jets of some data sets from one file to a new one."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for key in keys:
            new[key] = old[key][:number]


def weights(path):
    """Return the model state of a checkpoint."""
    return read_checkpoint(path)["model_state"]


def same(a, b) -> bool:
    """Whether two model states are bitwise identical."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def row(path) -> dict:
    """Return the first row of a CSV file."""
    with open(path) as file:
        return next(csv.DictReader(file))


def walk(rng, number):
    """Make an event of three random walks on the voxel grid: points (N, 8), clusters (4, 6), the LED cluster first."""
    sizes = [number // 10, number // 2, number // 4, number - number // 10 - number // 2 - number // 4]
    points = np.zeros((number, 8), np.float32)
    steps = rng.normal(size=(number, 3)) * 0.8
    steps[: sizes[0]] *= 40
    points[:, :3] = np.clip(np.round(steps.cumsum(0) + rng.uniform(200, 500, 3)), 0, 767)
    points[:, 3] = rng.uniform(0.2, 3, number)
    clusters = np.array([[n, k, k, 0, k - 1, k] for k, n in enumerate(sizes)])
    clusters[0, 1:] = [-1, -1, -1, 4, -1]
    return points, clusters


def write(path, events):
    """Write events to a file in the published layout."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with h5py.File(path, "w") as file:
        for column, (name, kind) in enumerate((("point", "f4"), ("cluster", "i4"))):
            file.create_dataset(name, (len(events),), h5py.vlen_dtype(kind))
            for number, event in enumerate(events):
                file[name][number] = event[column].reshape(-1)
    return path


def hard_events(rng):
    """Make an event without any point above the threshold, and one whose points all lie in one token.

    The second one has no neighbouring tokens to choose from."""
    faint, small = walk(rng, 60), walk(rng, 60)
    faint[0][:, 3] = 0.1
    small[0][6:, :3] = np.round(300 + rng.uniform(0, 2, (54, 3)))
    return [faint, small]
