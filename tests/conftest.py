"""What all tests share: a seed, devices, tolerances, golden files, small data sets."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runs.helpers import (
    TINY_AUTOENCODER,
    TINY_CLOUDS,
    TINY_TRAINING,
    TINY_UNET,
    copy_jets,
    hard_events,
    walk,
    write,
)

ROOT = Path(__file__).resolve().parent.parent
os.environ["PYTHONPATH"] = str(ROOT / "src")  # for tests that start Python in a separate process
GOLDEN = Path(__file__).resolve().parent / "golden"
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
# largest difference relative to the largest entry, for one layer compared with an oracle
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}


def golden_folders(name: str) -> list[Path]:
    """Return the folders of golden vectors: that of the repository, and $PUFFIN_GOLDEN if it is set."""
    further = Path(os.environ["PUFFIN_GOLDEN"]) if os.environ.get("PUFFIN_GOLDEN") else None
    return [GOLDEN / name] + ([further / name if (further / name).is_dir() else further] if further else [])


def golden_files(name: str, pattern: str) -> list[Path]:
    """Return the golden files that match a pattern; a folder without any is an error, so that no test passes
    silently."""
    found = []
    for folder in golden_folders(name):
        files = sorted(folder.glob(pattern))
        assert files, f"no {pattern} in {folder}"
        found += files
    return found


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference relative to the largest entry of b."""
    if a.numel() == 0:
        return 0.0
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def run_folder() -> Path:
    """The small golden run: train, valid and test jets, a published checkpoint, its predictions and metrics."""
    return GOLDEN / "pelican_run"


@pytest.fixture(scope="module")
def small_jets(tmp_path_factory):
    """A folder of 100 training, 40 validation and 60 test jets of the golden run."""
    folder = tmp_path_factory.mktemp("jets")
    for split, n in (("train", 100), ("valid", 40), ("test", 60)):
        copy_jets(GOLDEN / "pelican_run" / f"{split}.h5", folder / f"{split}.h5", ("Pmu", "is_signal"), n)
    return folder


@pytest.fixture(scope="module")
def small_clouds(tmp_path_factory):
    """A folder of 10 training and 7 validation events; two of these are hard cases. No event has delta rays."""
    folder, rng = tmp_path_factory.mktemp("clouds"), np.random.default_rng(0)
    for split, number in (("train", 10), ("val", 5)):
        events = [walk(rng, n) for n in rng.integers(100, 300, number)] + (hard_events(rng) if split == "val" else [])
        write(folder / split / "events_v2.h5", events)
    return folder


def _pretrained(network: list[str], data: Path, work: Path) -> Path:
    """Pretrain a network for one step; return its checkpoint."""
    import train_pointmae

    flags = "--num-step 1 --no-plot --no-probe --ema 0.5 --energy-threshold 0.2".split()
    train_pointmae.main([*network, *flags, "--datadir", str(data), "--workdir", str(work)])
    return work / "model/tiny.pt"


@pytest.fixture(scope="module")
def pretrained(small_clouds, tmp_path_factory):
    """The checkpoint of a masked autoencoder with a transformer, after one training step."""
    return _pretrained([*TINY_AUTOENCODER, *TINY_CLOUDS], small_clouds, tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def pretrained_unet(small_clouds, tmp_path_factory):
    """The checkpoint of a masked autoencoder with a U-Net, after one training step."""
    network = [*TINY_UNET, "--mask-block", "4", *TINY_TRAINING]
    return _pretrained(network, small_clouds, tmp_path_factory.mktemp("pretrained_unet"))
