"""Augmentations: their statistics, and points that stay with their events and labels."""

import torch

from puffin.data.augment import (
    any_rotation,
    any_voxel_rotation,
    drop_points,
    jitter_energies,
    lattice_symmetry,
    mix_events,
    random_rotations,
    random_symmetries,
    rotate,
)
from puffin.data.packing import CloudBatch
from puffin.data.pilarnet import normalize_coordinates
from puffin.detector import PILARNET


def test_rotations_are_proper():
    """Breaks if a matrix entry has a wrong sign or the quaternion is not normalized."""
    rotations = random_rotations(500, torch.Generator().manual_seed(1)).double()
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).double().expand(500, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(500).double(), atol=1e-5)


def test_rotations_are_uniform():
    """Haar moments: E R = 0, E R_ij R_kl = delta_ik delta_jl / 3, E trace^3 = 1, E trace^4 = 3.

    The last two are the numbers of invariants in three and four vectors. Uniform Euler angles, or random axes with
    uniform angles, fail."""
    rotations = random_rotations(200_000, torch.Generator().manual_seed(2)).double()
    flat = rotations.flatten(1)
    assert flat.mean(0).abs().max() < 0.006
    assert (flat.T @ flat / len(flat) - torch.eye(9).double() / 3).abs().max() < 0.006
    trace = rotations.diagonal(dim1=1, dim2=2).sum(1)
    assert abs((trace**3).mean() - 1) < 0.06 and abs((trace**4).mean() - 3) < 0.15


def test_same_generator_same_rotations():
    """Breaks if the rotations come from the global random state, so that a run could not be resumed."""
    first, second = (random_rotations(3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


def test_each_event_has_its_own_rotation():
    """Breaks if events share a rotation, an empty event shifts the others, energies change, or the input is changed."""
    points, lengths = torch.randn(7, 4), torch.tensor([3, 0, 4])
    batch, before = CloudBatch(points, lengths, semantic=torch.arange(7)), points.clone()
    rotations = random_rotations(3, torch.Generator().manual_seed(3))
    rotated = rotate(batch, rotations)
    expected = torch.cat([points[:3, :3] @ rotations[0].T, points[3:, :3] @ rotations[2].T])
    assert torch.allclose(rotated.points[:, :3], expected, atol=1e-6)
    assert torch.equal(rotated.points[:, 3], points[:, 3]) and torch.equal(points, before)
    assert rotated.semantic is batch.semantic


def test_all_symmetries_of_the_cube_are_drawn():
    """Breaks if a permutation or a sign is never drawn, or a matrix is not orthogonal."""
    matrices = random_symmetries(2000, torch.Generator().manual_seed(4))
    assert torch.equal(matrices @ matrices.mT, torch.eye(3).expand(2000, 3, 3))
    _, counts = matrices.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 48 and counts.min() > 10


def test_symmetries_keep_the_lattice():
    """Breaks if a voxel becomes a fraction of a voxel, two points are merged, or events move together."""
    torch.manual_seed(3)
    voxels = torch.randint(PILARNET.size, (400, 3)).float()
    points = torch.cat([(voxels - PILARNET.centre) / PILARNET.half_diagonal, torch.rand(400, 1)], 1)
    batch = CloudBatch(points, torch.tensor([150, 0, 250]))
    moved = lattice_symmetry(batch).points
    found = moved[:, :3].double() * PILARNET.half_diagonal + PILARNET.centre
    assert (found - found.round()).abs().max() < 1e-3
    assert len(found.round().unique(dim=0)) == len(voxels.unique(dim=0))
    assert torch.equal(moved[:, 3], points[:, 3])
    distances = [torch.pdist(x[:150, :3]) for x in (moved, points)]
    torch.testing.assert_close(*distances, atol=1e-5, rtol=0)
    assert (moved[:150, :3].mean(0) - moved[150:, :3].mean(0)).abs().max() > 1e-3


def test_rotated_voxels():
    """The rotation of `any_rotation`, then coordinates as they are read: whole voxels, to the bit.

    Breaks if points move by more than half a voxel along an axis, or lose their energies or labels."""
    batch = labelled([200, 0, 1, 300])
    rotated, moved = (torch.manual_seed(4) and augment(batch) for augment in (any_rotation, any_voxel_rotation))
    check_consistent(moved, batch)
    assert moved.lengths is batch.lengths and torch.equal(moved.points[:, 3], batch.points[:, 3])
    voxels = PILARNET.voxels(moved.points[:, :3]).round()
    assert torch.equal(normalize_coordinates(voxels), moved.points[:, :3])
    steps = (moved.points - rotated.points)[:, :3].abs() * PILARNET.half_diagonal
    assert 0.45 < steps.max() < 0.501


def labelled(lengths, dtype=torch.float32) -> CloudBatch:
    """Events on the lattice in which class, row and energy of a point are its number in the batch, 0, 1, 2, ..."""
    number = torch.arange(sum(lengths))
    voxels = torch.randint(PILARNET.size, (len(number), 3))
    points = torch.cat([(voxels - PILARNET.centre) / PILARNET.half_diagonal, number[:, None]], 1).to(dtype)
    counts = torch.tensor(lengths, dtype=torch.int64)
    return CloudBatch(points, counts, number, number, torch.arange(len(lengths)) + 100)


def check_consistent(batch: CloudBatch, original: CloudBatch) -> None:
    """Each point has its own label, row and energy; the lengths add up; nothing else is left of other points."""
    number = batch.points[:, 3].round().long()
    assert int(batch.lengths.sum()) == len(number) == len(number.unique())
    assert torch.equal(batch.semantic, number) and torch.equal(batch.row, number)
    assert len(batch.index) == len(batch.lengths) and batch.points.dtype == original.points.dtype


def test_dropped_points():
    """The removed fraction is uniform from 0 to the largest, one for each event.

    Breaks if points are removed at the same rate in all events, labels do not follow their points, or the last point
    of an event goes."""
    torch.manual_seed(5)
    batch = labelled([500] * 400, torch.float64)
    dropped = drop_points(batch, 0.6)
    check_consistent(dropped, batch)
    assert torch.equal(dropped.points, batch.points[dropped.row]) and torch.equal(dropped.index, batch.index)
    assert torch.equal(dropped.row // 500, torch.arange(400).repeat_interleave(dropped.lengths))
    fractions = 1 - dropped.lengths / 500
    assert fractions.max() < 0.68 and fractions.min() < 0.02
    assert abs(fractions.mean() - 0.3) < 0.03 and abs(fractions.std() - 0.6 / 12**0.5) < 0.02
    times_kept = torch.zeros(3)
    for _ in range(300):
        few = drop_points(labelled([0, 1, 3, 0]), 0.99)
        assert few.lengths[[0, 1, 3]].tolist() == [0, 1, 0] and 1 <= few.lengths[2] <= 3
        times_kept += (few.row[1:, None] == torch.arange(1, 4)).sum(0)
    assert times_kept.max() - times_kept.min() < 60  # any of the points may be the one that stays


def test_jittered_energies():
    """Each event has a spread of its own, uniform from 0 to the largest, and a common shift.

    Breaks if all events get equal noise, the shift is drawn for each point, or coordinates change."""
    torch.manual_seed(6)
    batch = labelled([1000] * 400, torch.float64)
    jittered = jitter_energies(batch, 0.2)
    assert torch.equal(jittered.points[:, :3], batch.points[:, :3]) and jittered.semantic is batch.semantic
    noise = (jittered.points - batch.points)[:, 3].view(400, 1000)
    spreads, shifts = noise.std(1), noise.mean(1)
    assert spreads.max() < 0.22 and spreads.min() < 0.01
    assert abs(spreads.mean() - 0.1) < 0.01 and abs(spreads.std() - 0.2 / 12**0.5) < 0.005
    assert abs(shifts.mean()) < 0.02 and abs(shifts.std() - 0.1) < 0.01
    assert jitter_energies(labelled([0, 1, 0]), 0.2).points.shape == (1, 4)


def test_mixed_events():
    """Pairs of whole events become one, in which the second has moved by whole voxels to a point of the first.

    Breaks if points leave their event or lose their labels, the shape of an event changes, the wrong index stays, or
    a part of the batch is lost."""
    torch.manual_seed(7)
    batch = any_rotation(labelled([30, 0, 50, 1, 20, 40, 60]))  # no longer on the lattice
    first_row, sizes = [0, 30, 30, 80, 81, 101, 141], dict(enumerate(batch.lengths.tolist(), 100))
    pairs = set()
    for _ in range(50):
        mixed = mix_events(batch, 1.0)
        check_consistent(mixed, batch)
        assert len(mixed.row) == 201 and len(mixed) in (4, 5)  # the empty event is alone, or its pair is not overlaid
        for index, rows, points in zip(
            mixed.index.tolist(), *(x.split(mixed.lengths.tolist()) for x in (mixed.row, mixed.points)), strict=True
        ):
            size, begin = sizes[index], first_row[index - 100]
            assert torch.equal(rows[:size], torch.arange(begin, begin + size))  # those of the first event
            assert torch.equal(points[:size], batch.points[rows[:size]])
            if len(rows) == size:
                continue
            second = next(k for k, row in enumerate(first_row) if sizes[k + 100] and row == rows[size])
            pairs.add((index - 100, second))
            assert torch.equal(rows[size:], torch.arange(rows[size], rows[size] + sizes[second + 100]))
            moved = (points[size:] - batch.points[rows[size:]])[:, :3] * PILARNET.half_diagonal
            assert (moved - moved[0].round()).abs().max() < 1e-3
            apart = (points[:size, None, :3] - points[size:, :3]).abs().amax(2).min() * PILARNET.half_diagonal
            assert apart < 16.6
    assert len(pairs) > 25  # of 30


def test_probability_and_distance_of_mixing():
    """A pair is overlaid with the given probability; the points that meet differ by -16 to 16 voxels, uniformly."""
    torch.manual_seed(8)
    batch = labelled([1] * 20_000, torch.float64)
    mixed = mix_events(batch, 0.3)
    check_consistent(mixed, batch)
    double = mixed.lengths == 2
    assert set(mixed.lengths.tolist()) == {1, 2} and abs(double.sum() / 10_000 - 0.3) < 0.02
    begin = mixed.lengths.cumsum(0)[double] - 2
    apart = ((mixed.points[begin + 1] - mixed.points[begin])[:, :3] * PILARNET.half_diagonal).round()
    assert set(apart.unique().tolist()) == set(range(-16, 17))
    assert apart.mean(0).abs().max() < 0.6 and (apart.std(0) - (33**2 / 12) ** 0.5).abs().max() < 0.3
    assert (torch.corrcoef(apart.T) - torch.eye(3)).abs().max() < 0.06


def test_batches_without_pairs():
    """No event, one event, or only events without points: nothing is overlaid, and nothing fails."""
    for lengths in ([], [3], [0, 0, 0], [0, 4]):
        batch = labelled(lengths)
        mixed = mix_events(jitter_energies(drop_points(batch, 0.0), 0.0), 1.0)
        check_consistent(mixed, batch)
        assert mixed.lengths.sort().values.tolist() == lengths
    alone = mix_events(CloudBatch(torch.rand(5, 4), torch.tensor([2, 3])), 1.0)  # neither labels nor numbers
    assert alone.lengths.tolist() == [5] and alone.semantic is alone.row is alone.index is None
