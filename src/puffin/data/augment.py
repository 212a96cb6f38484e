"""Augmentation of point clouds."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from puffin.data.packing import CloudBatch
from puffin.detector import PILARNET

Augmentation = Callable[[CloudBatch], CloudBatch]
_SHIFTS = 32  # voxels; as many as five halvings of the resolution tell apart


def any_rotation(batch: CloudBatch) -> CloudBatch:
    """Rotate each event at random about the centre of the detector."""
    return rotate(batch, random_rotations(len(batch)))


def lattice_symmetry(batch: CloudBatch) -> CloudBatch:
    """Rotate and mirror each event at random, so that voxels remain voxels, and shift it by whole voxels.

    The shifts change which voxels are merged at coarser resolutions."""
    rotated = rotate(batch, random_symmetries(len(batch)))
    return shift(rotated, torch.randint(_SHIFTS, (len(batch), 3)) * PILARNET.voxel)


def random_rotations(number: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw rotation matrices (number, 3, 3) float32, uniform in SO(3), on the generator's device.

    They come from unit quaternions, uniform on the 3-sphere: normalized Gaussian vectors.
    Source: Shoemake, Graphics Gems III (1992)."""
    device = generator.device if generator is not None else None
    w, x, y, z = torch.nn.functional.normalize(
        torch.randn(number, 4, generator=generator, device=device), dim=1
    ).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def random_symmetries(number: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw symmetries of the cube, (number, 3, 3) float32, uniform among the 48: permutations of the axes with signs.

    They map the voxels of the detector to voxels, so that no points are merged."""
    axes = torch.rand(number, 3, generator=generator).argsort(1)
    signs = 1 - 2 * torch.randint(2, (number, 3), generator=generator)
    return signs[:, :, None].float() * torch.eye(3)[axes]


def shift(batch: CloudBatch, shifts: Tensor) -> CloudBatch:
    """Move all points of each event; shifts (B, 3)."""
    points = batch.points
    moved = points[:, :3] + _of_points(shifts, batch)
    return replace(batch, points=torch.cat([moved, points[:, 3:]], 1))


def rotate(batch: CloudBatch, rotations: Tensor) -> CloudBatch:
    """Rotate each event about the origin, the centre of the detector, by its own matrix; rotations (B, 3, 3)."""
    points = batch.points
    rotated = (_of_points(rotations, batch) @ points[:, :3, None]).squeeze(2)
    return replace(batch, points=torch.cat([rotated, points[:, 3:]], 1))


def _of_points(of_events: Tensor, batch: CloudBatch) -> Tensor:
    """Repeat the rows of a tensor (B, ...) for each point: (P, ...)."""
    points = batch.points
    lengths = batch.lengths.to(points.device, non_blocking=True)
    of_events = of_events.to(points.device, points.dtype, non_blocking=True)
    return torch.repeat_interleave(of_events, lengths, dim=0, output_size=len(points))
