"""Sparse convolutions against dense ones of PyTorch, and their gradients."""

import pytest
import torch

from puffin.ops import library
from puffin.ops import sparse_conv as module
from puffin.ops.sparse_conv import sparse_conv
from puffin.ops.voxels import coarsen, voxel_neighbours
from tests.conftest import TOLERANCE, relative
from tests.ops.processor import check_instruction_set, with_threads
from tests.ops.samples import samples
from tests.ops.test_voxels import LENGTHS, sorted_events

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CHANNELS = [(16, 16), (1, 3), (64, 64), (17, 40)]
KINDS = ["submanifold", "stride 2", "transpose"]
needs_kernels = pytest.mark.skipif(not library.has_cpu_kernel(torch.zeros(1)), reason="CPU kernels not built")


def tables(kind, lengths=(40, 0, 1, 90), origin=(-3, 5, 0)):
    """The table of a convolution and its transpose."""
    coordinates, ptr = sorted_events(lengths, origin)
    if kind == "submanifold":
        neighbours = voxel_neighbours(coordinates, ptr)
        return neighbours, neighbours.flip(1)
    coarse = coarsen(coordinates, ptr)
    both = coarse.children, coarse.parent_table
    return both if kind == "stride 2" else both[::-1]


def sample(kind, channels, dtype=torch.float64, **where):
    """Features, weights and tables."""
    table, transposed = tables(kind, **where)
    weight = torch.randn(table.shape[1], *channels, dtype=torch.promote_types(dtype, torch.float32)) / 4
    return torch.randn(len(transposed), channels[0], dtype=dtype), weight, table, transposed


def literal(x, weight, table):
    """A sum over all offsets of zeros or rows, which autograd can follow."""
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return sum(padded[table[:, k].long()] @ weight[k] for k in range(len(weight)))


def both(function, x, weight, direction):
    """The result, and the gradients of its product with a direction."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight)
    return y, *torch.autograd.grad((y * direction.to(y)).sum(), (x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients(lengths, kind, channels, dtype):
    """Against float64 autograd on the same numbers: tiles that are not full, padded channels, empty events."""
    x, weight, table, transposed = sample(kind, channels, dtype, lengths=LENGTHS[lengths])
    direction = torch.randn(len(table), channels[1], dtype=torch.float64).to(dtype)
    got = both(lambda a, w: sparse_conv(a, w, table, transposed), x, weight, direction)
    want = both(lambda a, w: literal(a, w, table), x.double(), weight.double(), direction.double())
    assert [g.dtype for g in got] == [dtype, dtype, weight.dtype]
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and relative(a.double(), b) < TOLERANCE[dtype]


@pytest.mark.parametrize("channels", CHANNELS)
def test_equals_dense_convolution(channels):
    """conv3d on a grid in which every voxel is occupied: the order of the offsets, and zeros outside."""
    size = 4
    coordinates, ptr = sorted_events([size**3], size=size)
    neighbours = voxel_neighbours(coordinates, ptr)
    x, weight = torch.randn(size**3, channels[0]), torch.randn(27, *channels) / 4
    got = sparse_conv(x, weight, neighbours, neighbours.flip(1))
    a, b, c = (coordinates + size // 2).unbind(1)
    grid = torch.zeros(1, channels[0], size, size, size)
    grid[0, :, a, b, c] = x.t()
    dense = torch.nn.functional.conv3d(grid, weight.permute(2, 1, 0).unflatten(2, (3, 3, 3)), padding=1)
    assert relative(got, dense[0, :, a, b, c].t()) < TOLERANCE[torch.float32]


def test_stride_equals_dense_convolution():
    """conv3d with stride 2 and its transpose on a full grid: the order of the octants."""
    size = 4
    coordinates, ptr = sorted_events([size**3], size=size)
    coarse = coarsen(coordinates, ptr)
    x, weight, back = torch.randn(size**3, 3), torch.randn(8, 3, 5), torch.randn(8, 5, 2)
    y = sparse_conv(x, weight, coarse.children, coarse.parent_table)
    z = sparse_conv(y, back, coarse.parent_table, coarse.children)
    a, b, c = (coordinates + size // 2).unbind(1)
    grid = torch.zeros(1, 3, size, size, size)
    grid[0, :, a, b, c] = x.t()
    down = torch.nn.functional.conv3d(grid, weight.permute(2, 1, 0).unflatten(2, (2, 2, 2)), stride=2)
    up = torch.nn.functional.conv_transpose3d(down, back.permute(1, 2, 0).unflatten(2, (2, 2, 2)), stride=2)
    i, j, k = (coarse.coordinates + size // 4).unbind(1)
    assert relative(y, down[0, :, i, j, k].t()) < TOLERANCE[torch.float32]
    assert relative(z, up[0, :, a, b, c].t()) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    """Numerical derivatives in float64; a second derivative is refused."""
    x, weight, table, transposed = sample(kind, (3, 2), lengths=(7, 0, 4))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, w: sparse_conv(a, w, table, transposed), (x, weight))
    y = sparse_conv(x, weight, table, transposed).square().sum()
    first = torch.autograd.grad(y, weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [(16, 16), (17, 40)])
def test_events_do_not_see_each_other(channels, dtype):
    """NaN and infinity in one event, or other events before and after: the same bits."""
    x, weight, table, transposed = sample("submanifold", channels, dtype, lengths=(130, 120, 70))
    inside = slice(130, 250)
    direction = torch.ones(320, channels[1])

    def convolve(table):
        return lambda a, w: sparse_conv(a, w, table, table.flip(1))

    own = torch.where(table[inside] < 0, -1, table[inside] - 130)
    alone = both(convolve(own), x[inside], weight, direction[inside])
    dirty = x.clone()
    dirty[:130], dirty[250:] = torch.nan, torch.inf
    y, grad, _ = both(convolve(table), dirty, weight, direction)
    assert not y[:130].isfinite().any() and not y[250:].isfinite().any()
    assert torch.equal(y[inside], alone[0]) and torch.equal(grad[inside], alone[1])


@pytest.mark.parametrize("channels", [(3, 2), (17, 40)])
def test_oracle_equals_kernel(channels):
    """Both operators on the same arguments."""
    x, weight, table, transposed = sample("stride 2", channels)
    grad = torch.randn(len(table), channels[1], dtype=x.dtype)
    for oracle, operator, args in (
        (module._oracle, torch.ops.puffin.sparse_conv, (x, weight, table, transposed)),
        (module._weight_oracle, torch.ops.puffin.sparse_conv_weight, (x, grad, table)),
    ):
        assert relative(operator(*args), oracle(*args)) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("name", ["sparse_conv", "sparse_conv_weight"])
def test_opcheck(name):
    """Schema, fake kernels, registration of the derivative."""
    args = samples(torch.float64)[name]
    if name == "sparse_conv":
        args = args[0].requires_grad_(), args[1].requires_grad_(), *args[2:]
    torch.library.opcheck(getattr(torch.ops.puffin, name).default, args)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_does_not_depend_on_threads(dtype):
    """Bit for bit with 1 and 3 threads, and several blocks of partial sums."""
    table = torch.randint(-9000, 9000, (9000, 3), dtype=torch.int32).clamp_min(-1)
    x, weight, direction = torch.randn(9000, 5, dtype=dtype), torch.randn(3, 5, 7), torch.randn(9000, 7)

    def convolve():
        return both(lambda a, w: sparse_conv(a, w, table, table), x, weight, direction)

    assert all(torch.equal(a, b) for a, b in zip(*with_threads((1, 3), convolve), strict=True))


@needs_kernels
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_lower_instruction_sets_agree(level):
    """The tests of values above, with the code for machines that lack the instructions of this one."""
    check_instruction_set(level, [__file__], "values or see or oracle_equals")


@needs_kernels
def test_wrong_arguments_of_operators_raise():
    """A kernel would read beyond the end."""
    x, weight, table, transposed = sample("submanifold", (3, 2))
    grad = torch.randn(len(table), 2, dtype=x.dtype)
    convolve, of_weight = torch.ops.puffin.sparse_conv, torch.ops.puffin.sparse_conv_weight
    beyond = table.clone()
    beyond[-1, 5] = len(x)
    for bad in (beyond, table.long(), table[0]):
        with pytest.raises(RuntimeError, match="table: expected"):
            convolve(x, weight, bad, transposed)
        with pytest.raises(RuntimeError, match="table: expected|grad: expected"):
            of_weight(x, grad, bad)
    for bad in (weight[1:], weight[:, 1:], weight.float(), weight[0]):
        with pytest.raises(RuntimeError, match="weight: expected"):
            convolve(x, bad, table, transposed)
    for bad in (x[0], x.half(), x.long()):
        with pytest.raises(RuntimeError, match="x: expected"):
            convolve(bad, weight, table, transposed)
    for bad in (grad[1:], grad.float(), grad[0]):
        with pytest.raises(RuntimeError, match="grad: expected"):
            of_weight(x, bad, table)


def test_bad_arguments_raise():
    """The face names the argument."""
    x, weight, table, transposed = sample("stride 2", (3, 2))
    for args, name in (
        ((x[0], weight, table, transposed), "x"),
        ((x.long(), weight, table, transposed), "x"),
        ((x, weight[0], table, transposed), "weight"),
        ((x, weight.transpose(1, 2), table, transposed), "weight"),
        ((x, weight, table[:, 1:], transposed), "table"),
        ((x, weight, table.long(), transposed), "table"),
        ((x, weight, table, transposed[1:]), "transposed"),
        ((x, weight, table.to("meta"), transposed), "table"),
    ):
        with pytest.raises(ValueError, match=name):
            sparse_conv(*args)


def test_oracle_holds_no_table_of_all_neighbours():
    """A table of rows for all offsets would be 27 times as large as x."""
    x, weight, table, transposed = sample("submanifold", (16, 16), torch.float32)
    sizes = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Largest():
        module._oracle(x, weight, table, transposed)
        module._weight_oracle(x, x, table)
    assert max(sizes) <= max(x.numel(), weight.numel(), table.numel())
