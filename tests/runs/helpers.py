"""What the tests of the scripts share."""

import csv
import os
import signal

import h5py
import numpy as np
import pytest
import torch

from puffin.checkpoints.reading import read_checkpoint
from puffin.runs.entry import run_script

TINY_CLOUDS = (
    "--group-size 8 --context 60 --min-points 50 --batch-size 3 --cpu --threads 1 --num-epoch 2 --prefix tiny"
).split()


def refused_by(main, argv, capsys) -> str:
    """The last line of a script that must fail; its exit status must not be 0."""
    with pytest.raises(SystemExit) as stop:
        run_script(main, argv)
    assert stop.value.code not in (0, None)
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


def stop_in_training_step(monkeypatch, task, number, main, argv) -> None:
    """Run a script that gets SIGTERM at the begin of this training step (counted from 1) of a task's class, and
    must end by it."""
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


def weights(path):
    """Model state of a checkpoint."""
    return read_checkpoint(path)["model_state"]


def same(a, b) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def row(path) -> dict:
    """First row of a CSV file."""
    with open(path) as file:
        return next(csv.DictReader(file))


def walk(rng, number):
    """Event of three random walks on the lattice: points (N, 8), clusters (4, 6), LED first."""
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
    """A file in the published layout."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with h5py.File(path, "w") as file:
        for column, (name, kind) in enumerate((("point", "f4"), ("cluster", "i4"))):
            file.create_dataset(name, (len(events),), h5py.vlen_dtype(kind))
            for number, event in enumerate(events):
                file[name][number] = event[column].reshape(-1)
    return path


def hard_events(rng):
    """One without any point above the threshold, and one whose points all lie in one token: no neighbours to
    choose from."""
    faint, small = walk(rng, 60), walk(rng, 60)
    faint[0][:, 3] = 0.1
    small[0][6:, :3] = np.round(300 + rng.uniform(0, 2, (54, 3)))
    return [faint, small]
