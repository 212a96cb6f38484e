"""Random and adversarial clouds for the tests of the point ops, and what these tests share."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from puffin.ops import library
from tests.ops.processor import with_threads

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
DTYPES = [torch.float32, torch.float64]


def cloud(name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """points (B, N, D), lengths (B,): the named cloud, always the same."""
    generator = torch.Generator().manual_seed(list(CLOUDS).index(name))
    points, lengths = CLOUDS[name](generator)
    return points.to(dtype), torch.tensor(lengths, dtype=torch.int64)


def _uniform(*shape):
    return lambda g: torch.rand(shape, generator=g, dtype=torch.float64)


def _lattice(extent, *shape):
    return lambda g: torch.randint(extent, shape, generator=g).double()


def _tracks(g):
    steps = torch.randn(3, 400, 3, generator=g, dtype=torch.float64) * 0.4 + 0.5
    return (steps.cumsum(1) + 100).round(), [400, 3, 399]


def _collinear(g):
    t = torch.rand(2, 300, 1, generator=g, dtype=torch.float64).mul(40).round()
    return t * torch.tensor([1.0, 0.0, 0.0]) + torch.tensor([0.0, 7.0, -3.0]), [300, 299]


def _outliers(g):
    points = torch.randn(2, 400, 3, generator=g, dtype=torch.float64)
    points[0, 17] = 1e30  # its squared distances are infinite in float32
    points[0, 40:44] = torch.tensor([-1e25, 1e3, 5.0])
    points[1] *= torch.logspace(-12, 12, 400, dtype=torch.float64)[:, None]
    return points, [400, 390]


def _strided(g):  # not contiguous in any dimension
    return torch.randint(9, (5, 120, 3), generator=g).double().permute(2, 1, 0)[:, ::2], [60, 31, 0]


CLOUDS = {
    "random": lambda g: (_uniform(3, 257, 3)(g), [257, 120, 1]),
    "random_large": lambda g: (_uniform(1, 1000, 3)(g), [1000]),
    "lattice_ties": lambda g: (_lattice(6, 3, 333, 3)(g), [333, 332, 100]),  # full of duplicates and ties
    "lattice_large": lambda g: (_lattice(20, 2, 700, 4)(g), [699, 450]),
    "tracks": _tracks,
    "collinear": _collinear,
    "all_equal": lambda g: (torch.full((2, 500, 3), 3.25, dtype=torch.float64), [500, 40]),
    "one_point": lambda g: (_uniform(2, 1, 3)(g), [1, 1]),
    "some_empty": lambda g: (_uniform(4, 50, 5)(g), [0, 50, 0, 2]),
    "all_empty": lambda g: (torch.zeros(2, 0, 3, dtype=torch.float64), [0, 0]),
    "no_events": lambda g: (torch.zeros(0, 10, 3, dtype=torch.float64), []),
    "outliers": _outliers,
    "far_away": lambda g: (_uniform(2, 300, 3)(g) + 1e6, [300, 300]),  # coordinates round to a coarse lattice
    "strided": _strided,
}
NAMES = list(CLOUDS)


def require_kernels(device: str = "cpu") -> None:
    """Skips a test of compiled kernels where there are none; PUFFIN_REQUIRE_KERNELS=1 makes that a failure."""
    if library.loaded(device.upper()):
        return
    reason = f"no compiled kernels for {device}:\n{library.describe()}"
    if os.environ.get("PUFFIN_REQUIRE_KERNELS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def golden() -> dict[str, Tensor]:
    """tests/golden/polarmae/kernels.npz, or that of $PUFFIN_GOLDEN."""
    folder = os.environ.get("PUFFIN_GOLDEN") or Path(__file__).resolve().parents[1] / "golden"
    with np.load(Path(folder) / "polarmae" / "kernels.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def valid(lengths: Tensor, size: int) -> Tensor:
    """(B, size) bool."""
    return torch.arange(size) < lengths[:, None]


def single_threaded(function):
    """function on one thread: an oracle's many small steps are slow on several threads of a busy machine."""
    return lambda *args: with_threads((1,), lambda: function(*args))[0]
