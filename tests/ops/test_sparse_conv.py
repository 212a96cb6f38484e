"""Sparse convolutions against dense ones of PyTorch, and their gradients."""

import pytest
import torch

from puffin.ops import sparse_conv as module
from puffin.ops.sparse_conv import sparse_conv
from puffin.ops.voxels import coarsen, voxel_neighbours
from tests.conftest import TOLERANCE, relative
from tests.ops.test_voxels import LENGTHS, sorted_events

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CHANNELS = [(16, 16), (1, 3), (64, 64), (17, 40)]
KINDS = ["submanifold", "stride 2", "transpose"]


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
    with pytest.raises(RuntimeError, match="autograd|differentiate twice"):
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
