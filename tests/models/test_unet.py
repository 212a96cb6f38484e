"""The U-Net on voxels: events alone and together, order of points, symmetries of the lattice, what learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from puffin.data.augment import lattice_symmetry
from puffin.data.packing import CloudBatch
from puffin.detector import PILARNET
from puffin.layers.voxels import voxelise
from puffin.models.segmentation import VoxelSegmentation, segmentation_network
from puffin.settings.clouds import PointSegmentationSettings, SegmentationConfig
from puffin.settings.flags import with_presets
from puffin.settings.unet import UNetConfig
from tests.layers.clouds import without_gradient

CONFIG = SegmentationConfig(backbone="unet", unet=UNetConfig(4, 3, 1), head_dropout=0.0)


def walks(lengths, dtype=torch.float64):
    """Make events of whole voxels, each a random walk without a voxel twice: points (P, 4), lengths."""
    generator = torch.Generator().manual_seed(5)
    events = []
    for length in lengths:
        steps = torch.randint(-1, 2, (3 * length + 3, 3), generator=generator).cumsum(0) + 300
        voxels = torch.unique(steps, dim=0)
        order = torch.randperm(len(voxels), generator=generator)[:length]
        assert len(order) == length
        events.append(voxels[order])
    xyz = (torch.cat(events).to(dtype) - PILARNET.centre) / PILARNET.half_diagonal
    energy = torch.rand(len(xyz), 1, generator=generator).to(dtype)
    return torch.cat([xyz, energy], 1), torch.tensor(lengths)


def make_model(**changes):
    torch.manual_seed(1)
    return segmentation_network(replace(CONFIG, **changes)).double()


@pytest.mark.parametrize("geometry", [False, True])
@torch.no_grad()
def test_event_alone_equals_event_in_batch(geometry):
    """Breaks if a neighbour of another event is taken, or events share a coarse voxel."""
    model = make_model(geometry=geometry).eval()
    points, lengths = walks([120, 0, 300, 40])
    together = model(points, lengths).logits
    assert isinstance(model, VoxelSegmentation) and together.shape == (460, 4)
    assert torch.equal(model(points[120:420], lengths[2:3]).logits, together[120:420])


@torch.no_grad()
def test_order_of_points_does_not_matter():
    """Breaks if a point gets the features of another one."""
    model = make_model().eval()
    points, lengths = walks([200])
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    assert torch.equal(model(points[order], lengths).logits, model(points, lengths).logits[order])


@torch.no_grad()
def test_shift_by_the_coarsest_voxel_changes_nothing():
    """Breaks if a network knows where in the detector it is, or the lattice of the coarse voxels moves."""
    model = make_model().eval()
    points, lengths = walks([150, 90])
    moved = points.clone()
    moved[:, :3] -= 400 * PILARNET.voxel  # to negative coordinates; 400 is a multiple of 2 ** levels
    torch.testing.assert_close(model(moved, lengths).logits, model(points, lengths).logits)
    moved[:, 0] += PILARNET.voxel
    assert (model(moved, lengths).logits - model(points, lengths).logits).abs().max() > 1e-6


@torch.no_grad()
def test_points_of_one_voxel_share_its_features():
    """The second point of a voxel changes the mean of its energy, and both get the same logits."""
    model = make_model().eval()
    points, lengths = walks([100])
    double = torch.cat([points, points[7:8]])
    double[7, 3], double[100, 3] = points[7, 3] - 0.25, points[7, 3] + 0.25
    double[100, 0] += 0.3 * PILARNET.voxel
    logits = model(double, torch.tensor([101])).logits
    torch.testing.assert_close(logits[:100], model(points, lengths).logits)
    assert torch.equal(logits[7], logits[100])


@pytest.mark.parametrize("lengths", [[0], [], [1], [0, 1, 0]])
def test_hardly_any_points(lengths):
    """Breaks if a batch without voxels, or with one, cannot be trained on."""
    model = make_model()
    points, counts = walks(lengths) if lengths else (torch.zeros(0, 4).double(), torch.zeros(0, dtype=torch.int64))
    logits = model(points, counts).logits
    logits.sum().backward()
    assert logits.shape == (sum(lengths), 4) and logits.isfinite().all()


@pytest.mark.parametrize("geometry", [False, True])
def test_every_weight_learns(geometry):
    model = make_model(geometry=geometry)
    points, lengths = walks([300, 0, 1, 150])
    F.cross_entropy(model(points, lengths).logits, torch.randint(4, (451,))).backward()
    assert without_gradient(model) == []


def test_levels_of_a_known_event():
    """Four voxels in a row are two, then one; their neighbours are those beside them."""
    xyz = torch.tensor([[4.0, 8, 8], [5, 8, 8], [6, 8, 8], [7, 8, 8]])
    points = (xyz[[2, 0, 3, 1]] - PILARNET.centre) / PILARNET.half_diagonal
    voxels = voxelise(points, torch.tensor([4]), 3)
    assert [len(table.forward) for table in voxels.pyramid.neighbours] == [4, 2, 1]
    assert voxels.order.tolist() == [1, 3, 0, 2]
    before, behind = 4, 22  # offsets (-1, 0, 0) and (1, 0, 0)
    finest = voxels.pyramid.neighbours[0].forward
    assert finest[:, before].tolist() == [-1, 0, 1, 2] and finest[:, behind].tolist() == [1, 2, 3, -1]
    assert (finest >= 0).sum() == 4 + 3 + 3


def test_training_finds_branches():
    """Sixty steps, with every symmetry of the lattice: voxels with many neighbours are one class, others another."""
    model = make_model().float()
    points, lengths = walks([300, 200], torch.float32)
    with torch.no_grad():
        voxels = voxelise(points, lengths, 1)
        crowded = voxels.to_points((voxels.pyramid.neighbours[0].forward >= 0).sum(1, keepdim=True).float())
    target = (crowded.flatten() > crowded.median()).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = CloudBatch(points, lengths)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(lattice_symmetry(batch).points, lengths).logits, target).backward()
        optimizer.step()
    with torch.no_grad():
        right = (model(points, lengths).logits.argmax(1) == target).double().mean()
    assert right > 0.85 > (target == 0).double().mean()  # more than one class alone


def test_presets_have_the_size_in_their_name():
    """Breaks if a width changes, or if the settings of the recipe before win."""
    for name, parameters in {
        "unet_260k": 260e3,
        "segmentation_unet": 1.6e6,
        "unet_6m": 6.4e6,
        "unet_25m": 25e6,
    }.items():
        files = [Path(__file__).resolve().parents[2] / f"config/{each}.yaml" for each in ("segmentation_unet", name)]
        config = with_presets(PointSegmentationSettings, {"yaml": tuple(files)}).part(SegmentationConfig)
        with torch.device("meta"):
            count = sum(p.numel() for p in segmentation_network(config).parameters())
        assert config.geometry and abs(count / parameters - 1) < 0.05, (name, count)
