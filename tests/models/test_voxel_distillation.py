"""Teacher and student: which weights follow which, what a student may see, features of all levels."""

from dataclasses import replace

import pytest
import torch

from puffin.layers.voxels import voxel_coordinates, voxelise
from puffin.models.segmentation import segmentation_network
from puffin.models.voxel_distillation import VoxelDistillation, at_finest
from puffin.settings.clouds import PointMAEConfig, SegmentationConfig
from puffin.settings.distillation import DistillationConfig
from puffin.settings.unet import UNetConfig
from tests.layers.clouds import without_gradient
from tests.models.test_unet import walks

CONFIG = PointMAEConfig(
    backbone="unet",
    unet=UNetConfig(4, 4, 1),
    geometry=True,
    mask_block=4,
    method="distill",
    distillation=DistillationConfig(prototypes=16, crops=1, crop_radius=8, teacher_momentum=0.9),
)


def make_model(**changes):
    torch.manual_seed(1)
    return VoxelDistillation(replace(CONFIG, **changes)).double()


def every_third(points):
    return torch.arange(len(points)) % 3 == 0


def test_student_starts_as_the_teacher():
    model = make_model()
    student = model.student.state_dict()
    own = {name: weight for name, weight in model.state_dict().items() if not name.startswith(("student", "mask"))}
    assert own.keys() == student.keys() and all(torch.equal(own[name], student[name]) for name in own)


def test_teacher_is_the_moving_average():
    """Exactly, over three updates with a rising momentum; statistics and the mask token are not averaged.

    Breaks if a weight is left out, if both share a tensor, or if the momentum is of the student."""
    model = make_model()
    expected = {name: weight.clone() for name, weight in model.student.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not name.startswith("student.")}
    token = model.mask_token.clone()
    for momentum in (0.5, 0.9, 0.99):
        for weight in model.student.parameters():
            weight.data += torch.randn_like(weight)
        for buffer in model.student.buffers():
            buffer.data = buffer + 1
        model.update_teacher_(momentum)
        for name, weight in model.student.named_parameters():
            expected[name] = torch.lerp(expected[name], weight.detach(), 1 - momentum)
    teacher = {name: weight for name, weight in model.named_parameters() if not name.startswith(("student.", "mask"))}
    assert teacher.keys() == expected.keys()
    assert all(torch.equal(teacher[name], expected[name]) for name in expected)
    assert torch.equal(model.mask_token, token)
    assert all(torch.equal(model.get_buffer(name), buffer) for name, buffer in buffers.items())


def test_momentum():
    """From the flag's value to 1, at which the teacher stands still."""
    model = make_model()
    assert [model.momentum(done) for done in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1])


@pytest.mark.parametrize("geometry", [False, True])
def test_only_the_student_learns(geometry):
    """Every weight of the student gets a gradient, and none of the teacher. Breaks if the teacher is trained, too."""
    model = make_model(geometry=geometry)
    points, lengths = walks([300, 0, 1, 150])
    target = model.teach(points, lengths)
    assert not target.requires_grad
    (model(points, lengths, every_third(points)) * target).sum().backward()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(without_gradient(model)) == {name for name, _ in model.named_parameters()} - trained
    assert trained == {"mask_token"} | {f"student.{name}" for name, _ in model.student.named_parameters()}


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_hidden_points_show_their_position_alone(training):
    """Their energies change nothing, also not through hand-made features of visible points; their positions do."""
    model = make_model().train(training)
    points, lengths = walks([200, 100])
    hidden = every_third(points)
    other = points.clone()
    other[hidden, 3] = 1 - other[hidden, 3]
    before = model(points, lengths, hidden)
    assert torch.equal(model(other, lengths, hidden), before)
    assert not torch.equal(model(other, lengths, ~hidden), model(points, lengths, ~hidden))
    other[hidden, :3] *= -1
    assert not torch.equal(model(other, lengths, hidden), before)


@torch.no_grad()
def test_event_alone_equals_event_in_batch():
    model = make_model().eval()
    points, lengths = walks([120, 0, 300, 40])
    hidden = every_third(points)
    sizes = lengths.tolist()
    for together, of in (
        (model.teach(points, lengths), lambda p, n, h: model.teach(p, n)),
        (model(points, lengths, hidden), model),
    ):
        events = zip(points.split(sizes), lengths.split(1), hidden.split(sizes), strict=True)
        alone = torch.cat([of(*event) for event in events])
        torch.testing.assert_close(alone, together)


def test_features_of_all_levels():
    """The voxels' own coordinates as features: each of the finest voxels gets those of the voxels around it.

    Breaks if a parent's features go to the children of another one, or if the levels are permuted."""
    points, lengths = walks([150, 0, 80])
    voxels = voxelise(points, lengths, 4)
    levels = [voxels.mean(voxel_coordinates(points).double())]
    for coarser in voxels.pyramid.coarser:
        some_child = coarser.forward.amax(1)
        levels.append((levels[-1][some_child] / 2).floor())
    found = at_finest(levels, voxels.pyramid).split(3, 1)
    for k, coordinates in enumerate(found):
        assert torch.equal(coordinates, (levels[0] / 2**k).floor())


@pytest.mark.parametrize("lengths", [[], [0], [1], [1, 0, 2]])
@pytest.mark.parametrize("training", [False, True])
def test_hardly_any_points(lengths, training):
    """No event, no point, one point that is hidden: finite cosines and a backward pass."""
    model = make_model().train(training)
    points, counts = walks(lengths) if lengths else (torch.zeros(0, 4).double(), torch.zeros(0, dtype=torch.int64))
    cosines = model(points, counts, every_third(points))
    cosines.sum().backward()
    assert cosines.shape == (len(points), 16) and cosines.isfinite().all()
    assert model.teach(points, counts).shape == cosines.shape


def test_precision():
    """bfloat16 autocast stays near float32, and gives float32 cosines."""
    model = make_model().float().eval()
    points, lengths = walks([300, 150], torch.float32)
    plain = model(points, lengths, every_third(points))
    with torch.autocast("cpu", torch.bfloat16):
        cosines = model(points, lengths, every_third(points))
    cosines.sum().backward()
    assert cosines.dtype == torch.float32 and (cosines - plain).abs().max() < 0.1


def test_weights_fit_the_segmentation():
    """The teacher's backbone is that of a segmentation network, by name and shape."""
    segmentation = segmentation_network(SegmentationConfig(backbone="unet", unet=CONFIG.unet, geometry=True)).double()
    model = make_model().eval()
    parts = ("backbone.", "geometry.")
    weights = {name: weight for name, weight in model.state_dict().items() if name.startswith(parts)}
    assert segmentation.load_state_dict(weights, strict=False).missing_keys == ["head.weight", "head.bias"]
    points, lengths = walks([100])
    logits = segmentation.eval()(points, lengths).logits
    torch.testing.assert_close(segmentation.head(model.features(points, lengths)), logits)


def test_bad_settings():
    with pytest.raises(ValueError, match="method: distill needs backbone unet"):
        replace(CONFIG, backbone="transformer", geometry=False)
    with pytest.raises(ValueError, match="method: expected one of masked, distill"):
        replace(CONFIG, method="other")
