"""Rotations: proper, uniform, one for each event."""

import torch

from puffin.data.augment import lattice_symmetry, random_rotations, random_symmetries, rotate
from puffin.data.packing import CloudBatch
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
