"""Tensors with more than 2^31 elements: an offset that is computed in 32 bits reads other memory, or crashes.

The memory is mapped but not used: the kernels read only a few rows at its end, so that each test takes milliseconds.
"""

import contextlib
import mmap
import sys

import pytest
import torch

from puffin.ops import cnms, fps, library, neighbors
from tests.ops.clouds import require_kernels

LIMIT = 2**31
NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap.MAP_NORESERVE, which Python has from 3.13 on


def mapped(*shape: int) -> torch.Tensor:
    """Return a float32 tensor of zeros of this shape, whose memory is used only where it is written."""
    size = 4 * torch.Size(shape).numel()
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    except OSError as error:
        pytest.skip(f"this machine maps no {size / 2**30:.0f} GB: {error}")
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


@contextlib.contextmanager
def allocation():
    """Skip the test if the system does not promise the memory of an output, which will not be used either."""
    try:
        yield
    except RuntimeError as error:
        if "allocate" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def clouds():
    """points (2, 512, 2^22), of which only the first 60 and 90 are valid, and their lengths."""
    points = mapped(2, 512, 2**22)
    lengths = torch.tensor([60, 90])
    points[:, :90, :3] = torch.randint(6, (2, 90, 3), generator=torch.Generator().manual_seed(0)).float()
    return points, lengths


def small(points: torch.Tensor) -> torch.Tensor:
    """The same points without the further columns."""
    return points[..., :3].contiguous()


def test_fps(clouds):
    require_kernels()
    points, lengths = clouds
    k = torch.tensor([20, 20])
    found = torch.ops.puffin.farthest_point_sampling(points, lengths, k, torch.zeros_like(k), 20)
    assert torch.equal(found, fps.oracle(small(points), lengths, k, torch.zeros_like(k), 20))


def test_neighbors(clouds):
    """Queries and points have offsets beyond 2^31; knn with the list in registers and with that in memory."""
    require_kernels()
    points, lengths = clouds
    arguments, plain = (points, points, lengths, lengths), (small(points), small(points), lengths, lengths)
    for k in (4, 40):
        found, expected = torch.ops.puffin.knn(*arguments, k), neighbors.knn_oracle(*plain, k)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    count = torch.ops.puffin.ball_count(*arguments, 2.0)
    assert torch.equal(count, neighbors.ball_count_oracle(*plain, 2.0))
    index = torch.ops.puffin.ball_query(*arguments, 2.0, 8)
    assert torch.equal(index, neighbors.ball_query_oracle(*plain, 2.0, 8))


def test_cnms(clouds):
    require_kernels()
    points, lengths = clouds
    found, expected = torch.ops.puffin.cnms(points, lengths, 2.0), cnms.oracle(small(points), lengths, 2.0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_chamfer():
    """The second cloud begins beyond 2^31."""
    require_kernels()
    x, y = mapped(2, 1, 2**19), mapped(2, 2**13, 2**19)
    assert y[1:].storage_offset() >= LIMIT
    x[:, 0, 0], y[0, 0, 0], y[1, 0, 0], y[1, 1, 0] = 1.0, 3.0, 6.0, 9.0
    lengths_x, lengths_y = torch.tensor([1, 1]), torch.tensor([1, 2])
    dx, ix, dy, iy = torch.ops.puffin.chamfer(x, y, lengths_x, lengths_y)
    assert dx.tolist() == [[4.0], [25.0]] and ix.tolist() == [[0], [0]]
    assert dy[0, :2].tolist() == [4.0, 0.0] and dy[1, :3].tolist() == [25.0, 64.0, 0.0]
    assert iy[0, :2].tolist() == [0, -1] and iy[1, :3].tolist() == [0, 0, -1] and (iy[:, 3:] == -1).all()


@pytest.mark.skipif(not library.EMULATED, reason="the CPU kernel reads all rows")
def test_segments():
    """A segment of the last two rows: sum, extremum, and the gradient of the extremum."""
    rows, channels = 2**21 + 3, 1024
    x, ptr = mapped(rows, channels), torch.tensor([rows - 2, rows])
    x[-2:] = torch.arange(2.0 * channels).view(2, channels)
    assert torch.equal(torch.ops.puffin.segment_sum(x, ptr)[0], x[-2:].sum(0))
    largest = torch.ops.puffin.segment_extremum(x, ptr, True)
    assert torch.equal(largest[0], x[-1])
    with allocation():
        gradient = torch.ops.puffin.segment_extremum_backward(torch.full_like(largest, 7.0), largest, x, ptr)
    assert (gradient[-1] == 7).all() and (gradient[-2] == 0).all()


@pytest.mark.skipif(not library.EMULATED, reason="the CPU kernel reads all pairs")
def test_pairs():
    """An event of two nodes whose pairs (0, 1) and (1, 0) are the last rows of their blocks."""
    uppers, channels = 2**21 + 3, 1024
    x, base = mapped(2 + 2 * uppers, channels), torch.arange(float(channels))
    x[0], x[1], x[1 + uppers], x[-1] = base, base + 1, base + 2, base + 5
    where = torch.tensor([0, 2]), torch.tensor([uppers - 1, uppers])
    diagonal, rows, columns = torch.ops.puffin.pair_reduce(x, None, *where, 2)
    assert torch.equal(diagonal, torch.stack([base, base + 1]))
    assert torch.equal(rows, torch.stack([2 * base + 2, 2 * base + 6]))
    assert torch.equal(columns, torch.stack([2 * base + 5, 2 * base + 3]))
    u, v = torch.stack([base, base + 1]), torch.stack([base + 10, base + 20])
    with allocation():
        out = torch.ops.puffin.pair_expand(u, v, None, None, None, *where, uppers)
    for row, expected in ((0, u[0] + v[0]), (1, u[1] + v[1]), (1 + uppers, u[0] + v[1]), (-1, u[1] + v[0])):
        assert torch.equal(out[row], expected)


@pytest.mark.skipif(not library.EMULATED, reason="the CPU kernel reads all values")
def test_piecewise_linear():
    """A point between the last two knots, whose values and slope lie beyond 2^31."""
    knots, channels = 2**21 + 3, 1024
    values, x = mapped(1, knots, channels), torch.tensor([[knots - 1.5]])
    values[0, -2], values[0, -1] = 1.0, 3.0
    assert (torch.ops.puffin.piecewise_linear(x, values, 0.0, knots - 1.0) == 2).all()
