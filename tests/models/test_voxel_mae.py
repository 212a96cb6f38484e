"""The masked autoencoder of voxels: what may depend on what, the truth it is compared with, odd events."""

from dataclasses import replace

import pytest
import torch

from puffin.detector import PILARNET
from puffin.layers.voxels import voxel_coordinates
from puffin.losses.clouds import mean_of
from puffin.models.point_mae import random_mask
from puffin.models.segmentation import segmentation_network
from puffin.models.voxel_mae import VoxelMAE
from puffin.settings.clouds import PointMAEConfig, SegmentationConfig
from puffin.settings.unet import UNetConfig
from tests.layers.clouds import without_gradient
from tests.models.test_unet import walks

EDGE = 4
CONFIG = PointMAEConfig(backbone="unet", unet=UNetConfig(4, 4, 1), geometry=True, mask_block=EDGE)


def make_model(**changes):
    torch.manual_seed(1)
    return VoxelMAE(replace(CONFIG, **changes)).double()


def loss_of(result) -> torch.Tensor:
    return sum(map(mean_of, result.sums().values()))


def logits_of(result) -> list[torch.Tensor]:
    """Everything that is predicted, the coarsest scale first."""
    return [*result.occupancy[::-1], result.energy]


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_hidden_points_stay_hidden(training):
    """Energies of hidden points change no prediction. Their positions change only those of finer scales, to which the
    true voxels are given. Energies of visible points change all.

    Breaks if a hidden voxel is on the way down, or in the hand-made features, or in a statistic of the batch there."""
    model = make_model().train(training)
    blocks = model.parts(*walks([300, 200]))
    masked = random_mask(blocks.lengths, 0.6)
    hidden = masked.repeat_interleave(blocks.counts)[:, None]
    before = logits_of(model.reconstruct(blocks, masked))

    def after(points):
        return logits_of(model.reconstruct(replace(blocks, points=points), masked))

    xyz, energy = blocks.points.split([3, 1], 1)
    hidden_energies, visible_energies = (
        torch.cat([xyz, torch.where(at, 1 - energy, energy)], 1) for at in (hidden, ~hidden)
    )
    assert all(map(torch.equal, after(hidden_energies), before))
    assert not any(map(torch.equal, after(visible_energies), before))
    voxels = voxel_coordinates(blocks.points)
    mirrored = voxels // EDGE * EDGE + EDGE - 1 - voxels % EDGE  # within its block
    moved = torch.where(hidden, xyz + (mirrored - voxels) * PILARNET.voxel, xyz)
    moved = torch.cat([moved, energy], 1)
    assert torch.equal(voxel_coordinates(moved), torch.where(hidden, mirrored, voxels))
    coarsest, *finer = after(moved)
    assert torch.equal(coarsest, before[0])
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in zip(finer, before[1:], strict=True))


@torch.no_grad()
def test_event_alone_equals_event_in_batch():
    """Breaks if a feature, a hidden voxel or an error belongs to another event."""
    model = make_model().eval()
    points, lengths = walks([120, 0, 300, 40])
    together = model(points, lengths)
    of_event = together.masked.split(together.blocks.lengths.tolist())
    rows = together.by_event()
    for k, event in enumerate(points.split(lengths.tolist())):
        alone = model(event, lengths[k : k + 1], of_event[k])
        for name, value in alone.by_event().items():
            assert float(value) == pytest.approx(float(rows[name][k]), rel=1e-6), name
    assert [float(rows["hidden_4"][k]) for k in range(4)] == [float(m.sum()) for m in of_event]
    for name, sums in together.sums().items():
        assert rows[f"{name}_sum"].sum() == pytest.approx(float(sums[0]), rel=1e-5)
        assert rows[model.terms[name]].sum() == float(sums[1]) > 0


def morton(cell) -> int:
    """Interleave the bits of three coordinates."""
    return sum((c >> bit & 1) << (3 * bit + 2 - axis) for axis, c in enumerate(cell) for bit in range(12))


def test_truth():
    """Occupied octants and energies of the hidden voxels, against sets of cells. Breaks if octants are permuted, or the
    truth is of visible voxels."""
    model = make_model()
    points, lengths = walks([150, 80])
    result = model(points, lengths)
    blocks = result.blocks
    hidden_points = blocks.points[result.masked.repeat_interleave(blocks.counts)]
    per_event = (blocks.select(result.masked)).point_lengths.tolist()
    cells = [voxel_coordinates(event).tolist() for event in hidden_points.split(per_event)]
    energies = hidden_points[:, 3].split(per_event)
    true_energy = []
    for event, energy in zip(cells, energies, strict=True):
        rows = sorted(range(len(event)), key=lambda row: morton(event[row]))
        true_energy.append(energy[rows])
    torch.testing.assert_close(result.true_energy, torch.cat(true_energy))
    for k in range(2):
        expected = []
        for event in cells:
            fine, coarse = ({tuple(c >> level for c in cell) for cell in event} for level in (k, k + 1))
            for parent in sorted(coarse, key=morton):
                octants = [[2 * p + (o >> (2 - axis) & 1) for axis, p in enumerate(parent)] for o in range(8)]
                expected.append([tuple(octant) in fine for octant in octants])
        assert result.occupied(k).tolist() == expected


@pytest.mark.parametrize("geometry", [False, True])
def test_every_weight_learns(geometry):
    model = make_model(geometry=geometry)
    result = model(*walks([300, 0, 1, 150]))
    assert list(result.sums()) == list(model.terms) == list(result.errors())
    loss_of(result).backward()
    assert without_gradient(model) == []


def test_training_lowers_the_loss():
    """Forty steps on one batch with one mask."""
    model = make_model().float()
    points, lengths = walks([300, 200], torch.float32)
    masked = random_mask(model.parts(points, lengths).lengths, 0.6)
    optimizer, history = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model(points, lengths, masked))
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.6 * history[0]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [1, 0, 2]])
@pytest.mark.parametrize("training", [False, True])
def test_hardly_any_points(lengths, training):
    """No event, no point, nothing masked: a finite loss and a gradient."""
    model = make_model().train(training)
    points, counts = walks(lengths) if lengths else (torch.zeros(0, 4).double(), torch.zeros(0, dtype=torch.int64))
    result = model(points, counts)
    loss = loss_of(result)
    loss.backward()
    assert loss.isfinite() and len(result.hidden[-1]) == int(result.masked.sum())


@pytest.mark.parametrize("all_masked", [False, True])
def test_all_visible_or_none(all_masked):
    model = make_model()
    points, lengths = walks([150, 80])
    result = model(points, lengths, torch.full((len(model.parts(points, lengths)),), all_masked))
    assert len(result.energy) == 230 * all_masked
    loss_of(result).backward()


def test_precision():
    """bfloat16 autocast stays near float32, with a float32 loss."""
    model = make_model().float().eval()
    points, lengths = walks([300, 150], torch.float32)
    masked = random_mask(model.parts(points, lengths).lengths, 0.6)
    plain = loss_of(model(points, lengths, masked))
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model(points, lengths, masked))
    loss.backward()
    assert loss.dtype == torch.float32 and float((loss - plain).detach().abs()) < 0.05 * float(plain.detach())


def test_weights_fit_the_segmentation():
    """All weights of a segmentation network but its head are those of the autoencoder, by name and shape."""
    segmentation = segmentation_network(SegmentationConfig(backbone="unet", unet=CONFIG.unet, geometry=True))
    result = segmentation.double().load_state_dict(make_model().state_dict(), strict=False)
    assert result.missing_keys == ["head.weight", "head.bias"]
    assert {name.split(".")[0] for name in result.unexpected_keys} == {"mask_tokens", "occupancy", "energy"}
    points, lengths = walks([100])
    model = make_model().eval()
    logits = segmentation.eval()(points, lengths).logits
    torch.testing.assert_close(segmentation.head(model.features(points, lengths)), logits)


def test_bad_input():
    model, (points, lengths) = make_model(), walks([50])
    with pytest.raises(ValueError, match=r"masked: expected .* bool"):
        model(points, lengths, torch.zeros(3, dtype=torch.bool))
    for edge in (1, 3, 8, 16):  # no cube of voxels, or too coarse for a level with convolutions above it
        with pytest.raises(ValueError, match="mask_block: expected one of 2, 4"):
            replace(CONFIG, mask_block=edge)
    with pytest.raises(ValueError, match="unet_levels: expected at least 3"):
        replace(CONFIG, unet=UNetConfig(4, 2, 1))
    with pytest.raises(ValueError, match="geometry"):
        replace(CONFIG, backbone="transformer")
    with pytest.raises(ValueError, match="model: expected polarmae"):
        replace(CONFIG, model="pointmae")
