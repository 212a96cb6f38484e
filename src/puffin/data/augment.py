"""Augmentation of point clouds."""

from dataclasses import replace

import torch
from torch import Tensor

from puffin.data.packing import CloudBatch


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


def rotate(batch: CloudBatch, rotations: Tensor) -> CloudBatch:
    """Rotate each event about the origin, the centre of the detector, by its own matrix; rotations (B, 3, 3)."""
    points = batch.points
    lengths = batch.lengths.to(points.device, non_blocking=True)
    rotations = rotations.to(points.device, points.dtype, non_blocking=True)
    matrices = torch.repeat_interleave(rotations, lengths, dim=0, output_size=len(points))
    rotated = (matrices @ points[:, :3, None]).squeeze(2)
    return replace(batch, points=torch.cat([rotated, points[:, 3:]], 1))
