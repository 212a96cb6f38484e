import pytest
import torch

from puffin.ops import chamfer
from puffin.ops.chamfer import chamfer_distance
from tests.ops.clouds import DEVICES, DTYPES, NAMES, cloud, golden, require_kernels, single_threaded
from tests.ops.processor import with_threads

oracle = single_threaded(chamfer.oracle)


def pair(name, dtype=torch.float32):
    """A cloud and a moved, shorter one."""
    x, lengths_x = cloud(name, dtype)
    y = x.flip(1)[:, : (x.shape[1] + 1) // 2] + 0.25
    return x, y, lengths_x, torch.minimum(lengths_x, torch.tensor(y.shape[1]))


@pytest.mark.parametrize("device", DEVICES)
def test_golden(device):
    """Breaks when a mean counts padding, a direction is missing, or the fourth coordinate is left out."""
    g = golden()
    arguments = [g[f"chamfer_{k}"].to(device) for k in ("x", "y", "x_lengths", "y_lengths")]
    torch.testing.assert_close(chamfer_distance(*arguments, "none").cpu(), g["chamfer_each"], rtol=1e-6, atol=0)
    torch.testing.assert_close(chamfer_distance(*arguments).cpu(), g["chamfer_batch"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_oracle(name, dtype, device):
    """Breaks on ties not going to the lowest index, padding, or another order of operations."""
    require_kernels(device)
    arguments = pair(name, dtype)
    found = torch.ops.puffin.chamfer(*(t.to(device) for t in arguments))
    for a, b in zip(found, oracle(*arguments), strict=False):
        assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["random", "lattice_ties", "some_empty", "all_empty", "strided"])
def test_backward_equals_oracle(name, device):
    """Breaks when a gradient goes to another pair, or to padding."""
    require_kernels(device)
    x, y, lengths_x, lengths_y = pair(name, torch.float64)
    _, index_x, _, index_y = oracle(x, y, lengths_x, lengths_y)
    generator = torch.Generator().manual_seed(0)
    grad_x, grad_y = (torch.randn(i.shape, generator=generator, dtype=torch.float64) for i in (index_x, index_y))
    arguments = grad_x, grad_y, x, y, index_x, index_y
    found = torch.ops.puffin.chamfer_backward(*(t.to(device) for t in arguments))
    for a, b in zip(found, chamfer.backward_oracle(*arguments), strict=False):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dims", [3, 4])
def test_gradcheck(dims, device):
    """Breaks when forward and backward disagree, with unequal lengths and an empty cloud."""
    generator = torch.Generator().manual_seed(dims)
    x = torch.randn(3, 9, dims, generator=generator, dtype=torch.float64).to(device).requires_grad_()
    y = torch.randn(3, 7, dims, generator=generator, dtype=torch.float64).to(device).requires_grad_()
    lengths_x, lengths_y = (torch.tensor(n, device=device) for n in ([9, 4, 3], [5, 7, 0]))
    for reduction in chamfer.REDUCTIONS:

        def function(a, b, reduction=reduction):
            return chamfer_distance(a, b, lengths_x, lengths_y, reduction)

        assert torch.autograd.gradcheck(function, (x, y))


def test_large_clouds_take_the_tree():
    """Clouds beyond the pair-by-pair size: breaks when the fourth coordinate is pruned with."""
    require_kernels()
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randint(20, (1, n, 4), generator=generator).float() for n in (5000, 3000))
    lengths = torch.tensor([5000]), torch.tensor([3000])
    for a, b in zip(torch.ops.puffin.chamfer(x, y, *lengths), oracle(x, y, *lengths), strict=False):
        assert torch.equal(a, b)


def test_half_precision_is_computed_in_float32():
    """Breaks when autocast inputs raise, or lose their dtype on the way back."""
    x = torch.rand(2, 5, 3).bfloat16().requires_grad_()
    loss = chamfer_distance(x, torch.rand(2, 6, 3).bfloat16())
    loss.backward()
    assert loss.dtype == torch.float32 and x.grad.dtype == torch.bfloat16


def test_threads_do_not_matter():
    """Breaks when threads share a row, forward or backward."""
    require_kernels()

    def run():
        generator = torch.Generator().manual_seed(4)
        x = torch.rand(300, 32, 4, generator=generator).requires_grad_()
        y = torch.rand(300, 30, 4, generator=generator)
        loss = chamfer_distance(x, y)
        loss.backward()
        return torch.cat([loss[None], x.grad.flatten()])

    one, two, four = with_threads((1, 2, 4), run)
    assert torch.equal(one, two) and torch.equal(one, four)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((torch.zeros(2, 5, 3), torch.zeros(2, 5, 4)), ValueError, "y: expected 3 coordinates like x, got 4"),
        ((torch.zeros(2, 5, 3), torch.zeros(3, 5, 3)), ValueError, "y: expected 2 events like x, got 3"),
        ((torch.zeros(2, 5, 3), torch.zeros(2, 5, 3).double()), TypeError, "y: expected torch.float32 like x"),
        ((torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), None, None, "sum"), ValueError, "reduction: expected one of"),
        ((torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), torch.tensor([8, 1])), RuntimeError, "expected values in 0..5"),
    ],
)
def test_errors(arguments, error, message):
    """Breaks when bad input reaches the kernel or the message stops naming what was expected."""
    with pytest.raises(error, match=message):
        chamfer_distance(*arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    """Breaks when schema, fake kernel, kernel and autograd disagree."""
    x, y, lengths_x, lengths_y = (t.to(device) for t in pair("random"))
    arguments = x.requires_grad_(), y.requires_grad_(), lengths_x, lengths_y
    torch.library.opcheck(torch.ops.puffin.chamfer.default, arguments)
    to_y, index_x, to_x, index_y = torch.ops.puffin.chamfer(*arguments)
    torch.library.opcheck(
        torch.ops.puffin.chamfer_backward.default,
        (to_y.detach(), to_x.detach(), x.detach(), y.detach(), index_x, index_y),
    )
