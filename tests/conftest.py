"""Shared by all tests: a seed, devices, golden files, a small set of jets."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
# largest difference over largest entry, by dtype, for one layer against an oracle
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}


def golden_folders(name: str) -> list[Path]:
    """Folders of golden vectors: those of the repository, and $PUFFIN_GOLDEN when it is set."""
    further = Path(os.environ["PUFFIN_GOLDEN"]) if os.environ.get("PUFFIN_GOLDEN") else None
    return [GOLDEN / name] + ([further / name if (further / name).is_dir() else further] if further else [])


def golden_files(name: str, pattern: str) -> list[Path]:
    """Golden files by pattern; a folder without any is an error, not a silent pass."""
    found = []
    for folder in golden_folders(name):
        files = sorted(folder.glob(pattern))
        assert files, f"no {pattern} in {folder}"
        found += files
    return found


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over the largest entry of b."""
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
    """Folder of the small golden run: train, valid and test jets, a published checkpoint, its predictions and metrics."""
    return GOLDEN / "pelican_run"
