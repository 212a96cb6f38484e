"""No operation, layer or loss makes the host wait for the device, except where that is listed and has a reason."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
READ = "reads values: _local_scalar_dense"
LOSS = f"training/distributed.py:<lambda>: {READ}"
NORM = f"training/update.py:__call__: {READ}"
TOKENS = "layers/grouping.py:tokenize: copies a tensor to the CPU"

# each step of the trainer: a loss or gradient that is not finite stops the training before the update
STEP = {LOSS: 1, NORM: 1}
# tokens: their number, and then that of their points, decide the sizes of all that follows
CLOUD_STEP = {**STEP, TOKENS: 2, f"evaluation: {TOKENS}": 2}
# the same of voxels at each level, of blocks that can be hidden, and of crops
_VOXELS = {
    "ops/voxels.py:voxel_order: reads values: _local_scalar_dense": 3,
    "ops/voxels.py:merge_voxels: reads values: nonzero": 7,
    "ops/voxels.py:coarsen: makes a tensor of Python numbers": 4,
    "layers/blocks.py:split_into_blocks: copies a tensor to the CPU": 2,
    "data/views.py:crops_and_masked: copies a tensor to the CPU": 1,
}
VOXEL_STEP = {**STEP, **_VOXELS, **{f"evaluation: {wait}": number for wait, number in _VOXELS.items()}}
# the scale of the weights and their sum are Python numbers
_WEIGHTS = {f"tasks/weighting.py:normalised: {READ}": 1, f"tasks/weighting.py:combined: {READ}": 1}
WEIGHTED_STEP = {**STEP, **_WEIGHTS, **{f"evaluation: {wait}": number for wait, number in _WEIGHTS.items()}}

EXPECTED = {
    "classifier, event weights": WEIGHTED_STEP,
    "classifier, class weights": WEIGHTED_STEP,
    "operations on points": {},
    "synchronised norm": {},
    # the docstrings of these three name the wait
    "k of each event": {f"ops/fps.py:farthest_point_sampling: {READ}": 1},
    "ball query without k": {f"ops/neighbors.py:ball_query: {READ}": 1},
    "masked batch norm with a mask": {
        "layers/masked_batchnorm.py:forward: indexes with a mask, whose number of entries is read": 2
    },
}
BY_KIND = {"classifier": STEP, "regressor": STEP, "segmentation": CLOUD_STEP, "pretraining": CLOUD_STEP}
BY_KIND["distillation"] = VOXEL_STEP
CONTROLS = {
    "control: a layer that reads a value": {
        **STEP,
        f"models/pelican.py:output: {READ}": 1,
        f"evaluation: models/pelican.py:output: {READ}": 1,
    },
    "control: a gradient that is read": {**STEP, f"training/update.py:_gradients: {READ}": 1},
    "control: every kind of wait": {
        "?: makes a tensor of Python numbers": 1,
        "?: copies a tensor from the CPU without non_blocking=True": 1,
        "?: copies a tensor to the CPU": 1,
        "?: indexes with a mask, whose number of entries is read": 1,
        "?: indexes with a tensor on the CPU, which is copied": 1,
        "?: assigns a Python number by index, which CUDA copies": 1,
        "?: reads values: nonzero": 1,
        "?: repeat_interleave without output_size": 1,
        f"?: {READ}": 1,
    },
}


@pytest.fixture(scope="module")
def found() -> dict[str, Counter]:
    """The waits of all cases, recorded by a process of its own: the stub device changes global state of PyTorch."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.waits.cases"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: Counter(waits) for name, waits in json.loads(done.stdout).items()}


def without_saved_sums(waits: Counter) -> Counter:
    """Leave out the sums over events that an evaluation of a pretraining brings to the CPU, one copy for each term."""
    tasks = ("tasks/masked_modelling.py", "tasks/self_distillation.py")
    return Counter({name: number for name, number in waits.items() if not any(task in name for task in tasks)})


def test_only_listed_waits(found):
    """Breaks if a layer, a loss or an operation reads a value, copies to the CPU, or copies from it and waits."""
    networks = [name for name in found if not name.startswith("control")]
    assert len(networks) > 25
    for name in networks:
        expected = EXPECTED[name] if name in EXPECTED else BY_KIND[name.split()[0].rstrip(",")]
        waits = without_saved_sums(found[name])
        assert waits == expected, f"{name}: {waits - Counter(expected)} (missing: {Counter(expected) - waits})"


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_are_found(found, name):
    """Breaks if the recorder misses a kind of wait, or one in the forward or the backward pass of a layer."""
    assert found[name] == CONTROLS[name]


def test_tensors_of_two_devices_are_refused(found):
    """Breaks if the stub device computes where a GPU would refuse, so that a forgotten copy stays unseen."""
    assert any("same device, found stub:0 and cpu" in reason for reason in found["control: two devices"])
