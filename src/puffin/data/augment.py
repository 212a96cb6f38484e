"""Augmentation of point clouds."""

from dataclasses import replace

import torch
from torch import Tensor

from puffin.data.packing import CloudBatch


def random_rotations(number: int, generator: torch.Generator | None = None) -> Tensor:
    """Rotation matrices (number, 3, 3) float32, uniform in SO(3), drawn on the generator's device.

    From unit quaternions uniform on the 3-sphere, which are normalized Gaussian vectors: Shoemake, Graphics Gems III (1992)."""
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
    """The batch with each event turned about the centre of the detector, the origin, by its own rotation (B, 3, 3)."""
    points = batch.points
    lengths = batch.lengths.to(points.device)
    own = torch.repeat_interleave(rotations.to(points), lengths, dim=0, output_size=len(points))
    turned = (own @ points[:, :3, None]).squeeze(2)
    return replace(batch, points=torch.cat([turned, points[:, 3:]], 1))
