import pytest
import torch

from puffin.ops import fps
from puffin.ops.fps import farthest_point_sampling
from tests.ops.clouds import DEVICES, DTYPES, NAMES, cloud, golden, require_kernels, single_threaded
from tests.ops.processor import with_threads

oracle = single_threaded(fps.oracle)


def reference(points, lengths, k, start=0):
    batch = points.shape[0]
    return oracle(points, lengths, torch.full((batch,), k), torch.full((batch,), start), k)


@pytest.mark.parametrize("device", DEVICES)
def test_golden(device):
    """Breaks on another start, tie rule or order of operations."""
    g = golden()
    index = farthest_point_sampling(g["points"].to(device), g["lengths"].to(device), 200)
    assert torch.equal(index.cpu(), g["fps_idx"])
    assert torch.equal(reference(g["points"], g["lengths"], 200), g["fps_idx"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_oracle(name, dtype, device):
    """Breaks when pruning drops a bucket that a sample reaches, or on ties not going to the lowest index."""
    require_kernels(device)
    points, lengths = cloud(name, dtype)
    k = min(points.shape[1] + 3, 400)
    index = farthest_point_sampling(points.to(device), lengths.to(device), k, 2)
    assert torch.equal(index.cpu(), reference(points, lengths, k, 2))


@pytest.mark.parametrize("name", NAMES)
def test_indices_are_distinct_and_padded(name):
    """Breaks when a duplicate is sampled twice or padding is not -1."""
    points, lengths = cloud(name)
    index = farthest_point_sampling(points, lengths, points.shape[1] + 3)
    for row, n in zip(index, lengths.tolist(), strict=False):
        assert sorted(row[:n].tolist()) == list(range(n))
        assert (row[n:] == -1).all()


@pytest.mark.parametrize("device", DEVICES)
def test_k_and_start_per_event(device):
    """Breaks when k or start of one event is used for another, or start is not clamped to the event."""
    points, lengths = cloud("lattice_ties")
    k, start = torch.tensor([5, 0, 120]), torch.tensor([7, 3, 100_000])
    index = farthest_point_sampling(*(t.to(device) for t in (points, lengths, k, start))).cpu()
    assert index.shape == (3, 120)
    assert (index >= 0).sum(1).tolist() == [5, 0, 100]
    assert index[0, 0] == 7 and index[2, 0] == 99
    assert torch.equal(index, oracle(points, lengths, k, start, 120))


def test_only_three_columns_count():
    """Breaks when further columns enter the distance."""
    points, lengths = cloud("lattice_large")
    extended = torch.cat([points[..., :3], 1e6 * points[..., 3:]], -1)
    expected = farthest_point_sampling(points, lengths, 50)
    assert torch.equal(farthest_point_sampling(extended, lengths, 50), expected)


def test_threads_do_not_matter():
    """Breaks when the parallel build of the tree changes a result."""
    require_kernels()
    points = torch.randint(60, (1, 20_000, 3), generator=torch.Generator().manual_seed(1)).float()
    one, two, four = with_threads((1, 2, 4), lambda: farthest_point_sampling(points, None, 300))
    assert torch.equal(one, two) and torch.equal(one, four)


def test_large_cloud():
    """10^6 points: breaks on overflow of an offset; the sampled distances must fall."""
    require_kernels()
    points = torch.randint(700, (1, 1_000_000, 3), generator=torch.Generator().manual_seed(2)).float()
    index = farthest_point_sampling(points, None, 64)
    assert torch.equal(index, reference(points, torch.tensor([1_000_000]), 64))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"points": torch.zeros(5, 3)}, ValueError, "expected shape"),
        ({"points": torch.zeros(2, 5, 2)}, ValueError, "expected shape"),
        ({"points": torch.zeros(2, 5, 3).half()}, TypeError, "expected float32 or float64, got torch.float16"),
        ({"points": torch.zeros(2, 5, 3).long()}, TypeError, "expected float32 or float64"),
        ({"lengths": torch.tensor([5, 5, 5])}, ValueError, "lengths: expected shape"),
        ({"lengths": torch.tensor([5.0, 5.0])}, TypeError, "lengths: expected an int64 tensor"),
        ({"lengths": torch.tensor([5, 5], device="meta")}, ValueError, "lengths: expected device cpu"),
        ({"lengths": torch.tensor([5, 6])}, RuntimeError, "expected values in 0..5, got 6"),
        ({"lengths": torch.tensor([-1, 5])}, RuntimeError, "expected values in 0..5, got -1"),
        ({"k": -1}, ValueError, "k: expected k >= 0"),
        ({"k": 2.0}, TypeError, "k: expected an int"),
    ],
)
def test_errors(change, error, message):
    """Breaks when bad input reaches the kernel or the message stops naming what was expected."""
    arguments = {"points": torch.zeros(2, 5, 3), "lengths": torch.tensor([5, 5]), "k": 2, **change}
    with pytest.raises(error, match=message):
        farthest_point_sampling(**arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    """Breaks when schema, fake kernel and kernel disagree."""
    points, lengths = (t.to(device) for t in cloud("random"))
    count = torch.full((3,), 9, device=device)
    torch.library.opcheck(torch.ops.puffin.farthest_point_sampling.default, (points, lengths, count, count, 9))
