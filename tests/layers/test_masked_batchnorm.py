"""MaskedBatchNorm against torch.nn.BatchNorm1d, with masks, and over two processes."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from puffin.layers.masked_batchnorm import MaskedBatchNorm
from tests.conftest import relative


@pytest.mark.parametrize("masked", [False, True])
def test_equals_torch(masked):
    """Values, gradients and running statistics over the valid rows."""
    x = torch.randn(20, 3, dtype=torch.float64) * 2 + 1
    mask = torch.rand(20) > 0.4 if masked else None
    norm, torch_norm = MaskedBatchNorm(3).double(), torch.nn.BatchNorm1d(3).double()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    for _ in range(2):
        out, want = norm(a, mask), torch_norm(b[mask] if masked else b)
    got = out[mask] if masked else out
    assert relative(got, want) < 1e-14 and (not masked or (out[~mask] == 0).all())
    (got**3).sum().backward(), (want**3).sum().backward()
    assert relative(a.grad, b.grad) < 1e-12
    for name, value in torch_norm.named_buffers():
        assert relative(dict(norm.named_buffers())[name].double(), value.double()) < 1e-14
    norm.eval(), torch_norm.eval()
    assert relative(norm(x), torch_norm(x)) < 1e-14


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows(rows):
    """No row or one row has no variance; the output is the bias but for rounding, and nothing becomes nan."""
    norm = MaskedBatchNorm(2)
    x = torch.randn(rows, 2, requires_grad=True)
    out = norm(x)
    out.sum().backward()
    assert torch.allclose(out, norm.bias.expand(rows, 2), atol=1e-4) and torch.isfinite(norm.running_var).all()


def test_wrong_width():
    """The message names both widths."""
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 3\), got \(5, 2\)"):
        MaskedBatchNorm(3)(torch.zeros(5, 2))


def _rank(rank, port, x, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    norm = MaskedBatchNorm(3, sync=True).double()
    rows_of_rank = (x[:5] if rank == 0 else x[5:]).clone().requires_grad_()
    out = norm(rows_of_rank)
    (out**3).sum().backward()
    results[rank] = (out.detach(), rows_of_rank.grad, norm.running_mean, norm.running_var)
    dist.barrier()
    dist.destroy_process_group()


def test_synchronised_over_two_processes():
    """Uneven shares (5 and 15 rows) must give exactly what one process with all rows gives, gradients included."""
    x = torch.randn(20, 3, dtype=torch.float64) + 5
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_rank, (port, x, results), nprocs=2)
        parts = [results[0], results[1]]
    one, a = MaskedBatchNorm(3).double(), x.clone().requires_grad_()
    out = one(a)
    (out**3).sum().backward()
    assert relative(torch.cat([p[0] for p in parts]), out.detach()) < 1e-13
    assert relative(torch.cat([p[1] for p in parts]), a.grad) < 1e-12
    for part in parts:
        assert relative(part[2], one.running_mean) < 1e-13 and relative(part[3], one.running_var) < 1e-13


@pytest.mark.parametrize("training", [True, False])
def test_padded_tensor(training):
    """A padded (B, N, C) tensor with a mask equals its valid rows as a table; without a mask, all its rows."""
    x, mask = torch.randn(4, 5, 3, dtype=torch.float64), torch.rand(4, 5) > 0.3
    padded, table = (MaskedBatchNorm(3).double().train(training) for _ in range(2))
    assert torch.equal(padded(x, mask)[mask], table(x[mask])) and not padded(x, mask)[~mask].any()
    assert torch.equal(padded(x), table(x.flatten(0, 1)).view(4, 5, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 1000])
def test_a_number_of_rows_on_the_device_is_the_same(rows, dtype):
    """Bit for bit. Breaks if the running statistics of synchronised norms, whose number of rows is a tensor, differ."""
    norms = [MaskedBatchNorm(4).to(dtype) for _ in range(2)]
    for _ in range(3):
        mean, variance = torch.randn(4, dtype=dtype), torch.rand(4, dtype=dtype)
        norms[0].track_(mean, variance, float(rows))
        norms[1]._track_common_(mean, variance, torch.tensor(rows, dtype=dtype))
    for a, b in zip(*(norm.buffers() for norm in norms), strict=True):
        assert torch.equal(a, b)
