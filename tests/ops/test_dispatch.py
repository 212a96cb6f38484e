"""What PyTorch is told about every operator: fake kernels, dispatch keys, devices, autocast.  No GPU is needed."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from puffin import ops
from puffin.ops import library, segments
from puffin.ops import pairs as pair_faces
from puffin.ops.attention import segment_attention
from puffin.ops.chamfer import chamfer_distance
from puffin.ops.embedding import Labels, Power, pair_embed
from puffin.ops.messages import message
from puffin.ops.pair_index import PairIndex
from puffin.ops.pair_messages import pair_message
from puffin.ops.piecewise_linear import piecewise_linear
from puffin.ops.signed_power import signed_power
from puffin.ops.sparse_conv import sparse_conv
from puffin.ops.voxels import coarsen, voxel_neighbours, voxel_order
from tests.ops.samples import DIFFERENTIABLE, OPERATORS, samples

SIZES = {"some": (7, 0, 4), "one node": (1,), "empty events": (0, 0), "no events": ()}


def operator(name: str):
    """The overload of an operator."""
    return getattr(torch.ops.puffin, name).default


def description(x: torch.Tensor) -> tuple:
    """What a fake kernel has to get right; strides of dimensions of size 1 or of empty tensors mean nothing."""
    strides = tuple(s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1) if x.numel() else ()
    return tuple(x.shape), x.dtype, strides


def transposed_in_memory(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, column after column in memory."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.is_floating_point() and x.dim() > 1 else x


def test_every_operator_has_a_sample():
    """Breaks if a new operator is missing in the tests below."""
    assert sorted(samples()) == OPERATORS and len(OPERATORS) > 15


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", OPERATORS)
def test_fake_kernels_describe_the_results(name, sizes, dtype, layout):
    """Breaks if a fake kernel states another shape, dtype, stride or device than the kernel: compiled code then reads
    memory that is not there, or in another order."""
    args = samples(dtype, SIZES[sizes])[name]
    if layout == "transposed":
        args = tree_map_only(torch.Tensor, transposed_in_memory, args)
    results = tree_leaves(operator(name)(*args))
    with FakeTensorMode() as mode, torch.no_grad():
        on_gpu = tree_map_only(torch.Tensor, lambda x: mode.from_tensor(x).to("cuda:0"), args)
        fakes = tree_leaves(operator(name)(*on_gpu))
    assert [description(fake) for fake in fakes] == [description(result) for result in results]
    assert {fake.device for fake in fakes} == {torch.device("cuda:0")}


@pytest.mark.parametrize("name", OPERATORS)
def test_meta_tensors_have_the_shapes_of_the_results(name):
    """Breaks if an operator reads values of its arguments to find the shape of its result."""
    args = samples()[name]
    results = tree_leaves(operator(name)(*tree_map_only(torch.Tensor, lambda x: x.to("meta"), args)))
    assert [x.shape for x in results] == [x.shape for x in tree_leaves(operator(name)(*args))]
    assert {x.device.type for x in results} == {"meta"}


@pytest.mark.parametrize(
    "name", ["chamfer", "pair_mix_backward", "segment_attention", "segment_extremum", "segment_extremum_backward"]
)
def test_operators_are_well_formed(name):
    """opcheck of the operators that the tests of their modules leave out, or check without gradients."""
    needs_gradient = name in DIFFERENTIABLE
    args = tree_map_only(
        torch.Tensor, lambda x: x.requires_grad_(needs_gradient and x.is_floating_point()), samples(torch.float64)[name]
    )
    torch.library.opcheck(operator(name), args)


@pytest.mark.parametrize("name", OPERATORS)
def test_dispatch_table(name):
    """Breaks if an operator has no kernel for a device, or loses its derivative."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    gpus = [] if library.EMULATED else ["CUDA"]  # the emulated kernels stand at the place of the CPU's
    assert all(has(f"puffin::{name}", key) for key in ("CPU", "MPS", "XPU", "Meta", *gpus))
    assert has(f"puffin::{name}", "Autograd") == (name in DIFFERENTIABLE)


# -- faces ------------------------------------------------------------------------------------------------------------

PAIRS = PairIndex(torch.tensor([2, 3]), torch.device("cpu"))


def faces(points, lengths, rows, ptr, pairs=PAIRS) -> dict:
    """Call every face: points (2, 6, 3), lengths (2,), rows (13, 4), ptr (3,) from 0 to 13."""
    nodes, weight = rows[:5], rows[:4]
    lattice = torch.arange(39, device=rows.device).view(13, 3)
    table = torch.eye(13, 8, dtype=torch.int32, device=ptr.device) - 1
    return {
        "farthest_point_sampling": lambda: ops.farthest_point_sampling(points, lengths, 2),
        "knn": lambda: ops.knn(points, points, lengths, None, 2),
        "ball_count": lambda: ops.ball_count(points, points, 0.5, lengths),
        "ball_query": lambda: ops.ball_query(points, points, 0.5, 2, None, lengths),
        "centrality_nms": lambda: ops.centrality_nms(points, lengths, 0.5),
        "chamfer_distance": lambda: chamfer_distance(points, points + 1, lengths),
        "segment_sum": lambda: segments.segment_sum(rows, ptr),
        "segment_extremum": lambda: segments.segment_extremum(rows, ptr, True),
        "segment_attention": lambda: segment_attention(torch.cat([rows, rows, rows], 1), ptr, 2),
        "segment_expand": lambda: segments.segment_expand(rows[:2], ptr, 13),
        "local_geometry": lambda: ops.local_geometry(rows, ptr, (2, 3), (0.5,)),
        "components": lambda: ops.components(rows, ptr, 0.5),
        "component_geometry": lambda: ops.component_geometry(rows, ptr, 0.5),
        "pair_reduce": lambda: pair_faces.pair_reduce(rows, pairs),
        "pair_sums": lambda: pair_faces.pair_sums(rows, pairs),
        "pair_expand": lambda: pair_faces.pair_expand(nodes, nodes, nodes, pairs),
        "pair_extremum": lambda: pair_faces.pair_extremum(rows, pairs, True),
        "pair_mix": lambda: pair_faces.pair_mix(rows, weight, weight, (nodes, nodes, nodes), pairs, 0.1),
        "pair_embed": lambda: pair_embed(
            rows[:9],
            weight,
            weight[0],
            Power(weight[0] + 0.5, 1.0, True),
            Labels(nodes, nodes, nodes, torch.nn.LeakyReLU()),
            pairs,
        ),
        "message": lambda: message(rows, weight, weight[0], 0.1),
        "pair_message": lambda: pair_message(rows, weight, weight[0], 0.1, pairs),
        "signed_power": lambda: signed_power(rows, rows[0].abs() + 0.5, 1.0, True),
        "voxel_order": lambda: voxel_order(lattice, ptr),
        "voxel_neighbours": lambda: voxel_neighbours(lattice, ptr),
        "coarsen": lambda: coarsen(lattice, ptr),
        "piecewise_linear": lambda: piecewise_linear(rows, weight[:, :, None], 0.0, 1.0),
        "sparse_conv": lambda: sparse_conv(rows, weight[None, :, :3].expand(8, -1, -1), table, table),
    }


def inputs(dtype: torch.dtype = torch.float32) -> tuple:
    """Arguments of `faces`."""
    return (
        torch.rand(2, 6, 3, dtype=dtype),
        torch.tensor([6, 3]),
        torch.rand(13, 4, dtype=dtype),
        torch.tensor([0, 4, 13]),
    )


def test_every_face_is_here():
    """Breaks if a face of puffin.ops is missing in the tests below."""
    assert set(ops.__all__) <= set(faces(*inputs()))


ONLY_FEATURES = {"message", "piecewise_linear", "signed_power"}
GEOMETRY = {"local_geometry", "components", "component_geometry"}  # of coordinates, which bfloat16 would round
WITH_LENGTHS = {"farthest_point_sampling", "knn", "ball_count", "ball_query", "centrality_nms", "chamfer_distance"}


@pytest.mark.parametrize("name", sorted(set(faces(*inputs())) - ONLY_FEATURES))
def test_faces_refuse_tensors_of_two_devices(name):
    """Features on another device than lengths, pointers or pairs: one line that says what to move.

    Breaks if a face passes them on: kernels would read host memory, and PyTorch's own messages name no argument."""
    points, lengths, rows, ptr = inputs()
    with pytest.raises(ValueError, match="device|on meta") as caught:
        faces(points.to("meta"), lengths, rows.to("meta"), ptr)[name]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", faces(*inputs()))
def test_autocast(name):
    """Under autocast, `pair_mix` and `sparse_conv` compute in half precision as linear layers do, and the kernel of
    `pair_embed` rounds the table that it writes; all others keep the dtype of their input, as their sums and
    comparisons lose too much. Breaks if a face changes its dtype without a decision."""
    face = faces(*inputs())[name]
    plain = [x.dtype for x in tree_leaves(face()) if x.is_floating_point()]
    with torch.autocast("cpu", torch.bfloat16):
        cast = [x.dtype for x in tree_leaves(face()) if x.is_floating_point()]
    assert plain == [torch.float32] * len(plain)
    half = name == "pair_mix" or (name in ("pair_embed", "sparse_conv") and library.has_cpu_kernel(torch.zeros(1)))
    assert cast == ([torch.bfloat16] if half else plain)


@pytest.mark.parametrize("name", faces(*inputs()))
def test_half_precision_inputs(name):
    """bfloat16 features, as autocast gives them to later layers: the face computes, or says what it expects."""
    points, lengths, rows, ptr = inputs()
    face = faces(points, lengths, rows.bfloat16(), ptr)[name]
    if name in GEOMETRY:
        with pytest.raises(TypeError, match="expected float32 or float64"):
            face()
        return
    exact = faces(points, lengths, rows.bfloat16().float(), ptr)[name]
    for a, b in zip(tree_leaves(face()), tree_leaves(exact()), strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05)
    if name in WITH_LENGTHS:
        halved = faces(points.bfloat16(), lengths, rows, ptr)[name]
        if name == "chamfer_distance":
            assert halved().dtype == torch.float32
        else:
            with pytest.raises(TypeError, match="expected float32 or float64"):
                halved()
