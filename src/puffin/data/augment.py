"""Augmentation of point clouds."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from puffin.data.packing import CloudBatch, rows_of_events
from puffin.data.pilarnet import normalize_coordinates
from puffin.detector import PILARNET
from puffin.layers.packed import event_of_row, offsets, to_device

Augmentation = Callable[[CloudBatch], CloudBatch]
_SHIFTS = 32  # voxels; as many as five halvings of the resolution tell apart
_OVERLAP = 16  # voxels; largest distance along an axis between the points at which two events are overlaid


def any_rotation(batch: CloudBatch) -> CloudBatch:
    """Rotate each event at random about the centre of the detector."""
    return rotate(batch, random_rotations(len(batch)))


def any_voxel_rotation(batch: CloudBatch) -> CloudBatch:
    """Rotate each event as `any_rotation` does, then move each point to the nearest voxel.

    Voxels may then hold several points, each with its own energy and label."""
    rotated = any_rotation(batch)
    points = rotated.points
    voxels = PILARNET.voxels(points[:, :3]).round()
    return replace(rotated, points=torch.cat([normalize_coordinates(voxels), points[:, 3:]], 1))


def lattice_symmetry(batch: CloudBatch) -> CloudBatch:
    """Rotate and mirror each event at random, so that voxels remain voxels, and shift it by whole voxels.

    The shifts change which voxels are merged at coarser resolutions."""
    rotated = rotate(batch, random_symmetries(len(batch)))
    return shift(rotated, torch.randint(_SHIFTS, (len(batch), 3)) * PILARNET.voxel)


def drop_points(batch: CloudBatch, largest: float) -> CloudBatch:
    """Remove a random fraction of the points of each event, uniform from 0 to `largest`; at least one point stays."""
    lengths = batch.lengths
    fractions = largest * torch.rand(len(batch))
    kept = torch.rand(len(batch.points)) >= fractions.repeat_interleave(lengths)
    kept[_random_rows(lengths)[lengths > 0]] = True
    number_kept = event_of_row(lengths)[kept].bincount(minlength=len(batch))
    return take_points(batch, kept.nonzero()[:, 0], number_kept)


def jitter_energies(batch: CloudBatch, largest: float) -> CloudBatch:
    """Add Gaussian noise to the scaled energies.

    Each event has a standard deviation of its own, uniform from 0 to `largest`, for the noise of its points, and a
    shift of all its energies with standard deviation largest / 2."""
    spreads, shifts = largest * torch.rand(len(batch)), largest / 2 * torch.randn(len(batch))
    noise = torch.randn(len(batch.points)) * spreads.repeat_interleave(batch.lengths)
    noise = to_device(noise + shifts.repeat_interleave(batch.lengths), batch.points.device)
    points = batch.points
    return replace(batch, points=torch.cat([points[:, :3], points[:, 3:] + noise[:, None].to(points.dtype)], 1))


def mix_events(batch: CloudBatch, probability: float) -> CloudBatch:
    """Overlay random pairs of events, each pair with this probability: both become one event.

    The events are permuted; the first and the second make a pair, then the third and the fourth. The second event of a
    pair is moved by whole voxels, so that a random point of it comes to within 16 voxels along each axis of a random
    point of the first (half a voxel more if the events are not on one lattice). The points keep their labels and rows,
    and the event has the index of the first. An event without points is never overlaid.
    Source: Mix3D, arXiv 2110.02210, sec. 3."""
    order = torch.randperm(len(batch))
    lengths = batch.lengths[order]
    batch = take_points(batch, rows_of_events(offsets(batch.lengths)[order], lengths), lengths, order)
    mixed = (torch.rand(len(batch) // 2) < probability) & (lengths[:-1:2] > 0) & (lengths[1::2] > 0)
    first = 2 * mixed.nonzero()[:, 0]
    second = first + 1
    batch = shift(batch, _overlays(batch, first, second))
    lengths = lengths.index_add(0, first, lengths[second])
    left = torch.ones(len(batch), dtype=torch.bool).index_fill(0, second, False)
    return replace(batch, lengths=lengths[left], index=None if batch.index is None else batch.index[left])


def _overlays(batch: CloudBatch, first: Tensor, second: Tensor) -> Tensor:
    """Draw the shifts (B, 3) that bring the events `second` (M,) to the events `first` (M,), and leave all others."""
    device, rows = batch.points.device, _random_rows(batch.lengths)
    here, there = (batch.points[:, :3].index_select(0, to_device(rows[events], device)) for events in (first, second))
    beside = to_device(torch.randint(-_OVERLAP, _OVERLAP + 1, (len(second), 3)), device)
    voxels = ((here - there) * PILARNET.half_diagonal).round() + beside
    shifts = voxels.new_zeros(len(batch), 3)
    return shifts.index_copy(0, to_device(second, device), voxels * PILARNET.voxel)


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


def _random_rows(lengths: Tensor) -> Tensor:
    """Draw the row of a random point of each event, (B,) int64; the number for an event without points is no row."""
    return offsets(lengths)[:-1] + (torch.rand(len(lengths), dtype=torch.float64) * lengths).long()


def take_points(batch: CloudBatch, rows: Tensor, lengths: Tensor, events: Tensor | None = None) -> CloudBatch:
    """Return the points of some rows, which are those of events with these lengths.

    rows (P,), lengths (B,), events (B,) int64 on the CPU; events: their numbers in the batch (None: all, in order)."""
    on_device = to_device(rows, batch.points.device)
    return replace(
        batch,
        points=batch.points.index_select(0, on_device),
        lengths=lengths,
        semantic=None if batch.semantic is None else batch.semantic.index_select(0, on_device),
        row=None if batch.row is None else batch.row[rows],
        index=batch.index if batch.index is None or events is None else batch.index[events],
    )


def _of_points(of_events: Tensor, batch: CloudBatch) -> Tensor:
    """Repeat the rows of a tensor (B, ...) for each point: (P, ...)."""
    points = batch.points
    lengths = batch.lengths.to(points.device, non_blocking=True)
    of_events = of_events.to(points.device, points.dtype, non_blocking=True)
    return torch.repeat_interleave(of_events, lengths, dim=0, output_size=len(points))
