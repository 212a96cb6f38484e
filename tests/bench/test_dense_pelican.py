"""The dense PELICAN classifier of bench/ against the published numbers, in float64.

Golden files: `tests/golden/pelican`, or where PUFFIN_GOLDEN points: its folder `pelican`, or itself if the .npz files
lie there. Without any such file the test fails.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.dense_pelican import DensePelican

TOLERANCE = 1e-9  # of the largest entry of the array; for gradients, of the largest gradient of the file


def golden_files() -> list[Path]:
    root = Path(os.environ.get("PUFFIN_GOLDEN") or Path(__file__).parents[1] / "golden")
    folder = root / "pelican" if (root / "pelican").is_dir() else root
    return sorted(folder.glob("classifier_*.npz"))


FILES = golden_files()


def read(path: Path) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """The metadata, and the arrays by the part of their name before the first slash."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    with np.load(path) as arrays:
        meta = json.loads(str(arrays["meta"]))
        for name in arrays.files:
            if name != "meta":
                group, _, key = name.partition("/")
                groups.setdefault(group, {})[key] = torch.from_numpy(arrays[name])
    return meta, groups


def build(meta: dict, state: dict[str, torch.Tensor]) -> DensePelican:
    network = DensePelican(**meta["kwargs"]).double()
    network.load_state_dict(state)
    return network


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str, largest: float | None = None):
    assert found.shape == expected.shape, name
    largest = expected.abs().max().item() if largest is None else largest
    error = (found - expected).abs().max().item()
    assert error <= TOLERANCE * largest, f"{name}: off by {error:.2e}, largest entry {largest:.2e}"


def test_golden_files_are_there():
    assert FILES, "no classifier_*.npz found; set PUFFIN_GOLDEN to the folder that holds pelican/"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_numbers(path: Path):
    meta, golden = read(path)
    network = build(meta, golden["state"])
    inputs = golden["input"]
    inputs = inputs["Pmu"], inputs["particle_mask"], inputs.get("scalars")

    with torch.no_grad():
        assert_close(network.eval()(*inputs), golden["eval"]["predict"], "eval/predict")

    predict = network.train()(*inputs)
    loss = (predict * torch.linspace(-1, 1, predict.numel(), dtype=predict.dtype).view_as(predict)).sum()
    loss.backward()
    assert_close(predict.detach(), golden["train"]["predict"], "train/predict")
    assert_close(loss.detach(), golden["train"]["loss"], "train/loss")

    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert gradients.keys() == golden["grad"].keys()
    largest = max(g.abs().max().item() for g in golden["grad"].values())
    for name, expected in golden["grad"].items():
        assert_close(gradients[name], expected, f"grad/{name}", largest)
    buffers = dict(network.named_buffers())
    for name, expected in golden.get("after", {}).items():
        assert_close(buffers[name], expected, f"after/{name}")
