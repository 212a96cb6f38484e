import pytest
import torch

from puffin.ops import neighbors
from puffin.ops.neighbors import ball_count, ball_query, knn
from tests.ops.clouds import DEVICES, DTYPES, NAMES, cloud, golden, require_kernels, single_threaded
from tests.ops.processor import with_threads

knn_oracle = single_threaded(neighbors.knn_oracle)
ball_count_oracle = single_threaded(neighbors.ball_count_oracle)
ball_query_oracle = single_threaded(neighbors.ball_query_oracle)

RADII = [0.0, 0.3, 1.0, 5.0, 1e30]  # 1.0 and 5.0 are distances on the lattice: strictly below matters


def other_cloud(points, lengths):
    """Queries that are not the points: every second one moved, other lengths."""
    queries = points[:, ::2] + 0.25
    return queries, torch.minimum(lengths, torch.tensor(queries.shape[1]))


@pytest.mark.parametrize("device", DEVICES)
def test_golden(device):
    """Breaks on another comparison at the radius, order, or rounding of a distance."""
    g = golden()
    points, lengths = g["points"].to(device), g["lengths"].to(device)
    queries = points.gather(1, g["fps_idx"].to(device)[..., None].expand(-1, -1, 4))
    index = ball_query(queries, points, g["radius"].item(), 24, None, lengths)
    assert torch.equal(index.cpu(), g["ball_query_idx"])
    distance, index = knn(queries, points, None, lengths, 9)
    assert torch.equal(index.cpu(), g["knn_idx"])
    assert torch.equal(distance.cpu(), g["knn_dist2"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_knn_equals_oracle(name, dtype, device):
    """Breaks when pruning is too eager (an equal distance with a lower index counts), or on k > n."""
    require_kernels(device)
    points, lengths = cloud(name, dtype)
    for queries, lengths1 in ((points, lengths), other_cloud(points, lengths)):
        for k in (0, 1, 5, 70):
            arguments = queries, points, lengths1, lengths
            distance, index = knn(*(t.to(device) for t in arguments), k)
            expected_distance, expected_index = knn_oracle(*arguments, k)
            assert torch.equal(index.cpu(), expected_index)
            assert torch.equal(distance.cpu(), expected_distance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_ball_equals_oracle(name, dtype, device):
    """Breaks when a box is taken as inside or outside wrongly, or hits are not the lowest indices ascending."""
    require_kernels(device)
    points, lengths = cloud(name, dtype)
    for queries, lengths1 in ((points, lengths), other_cloud(points, lengths)):
        arguments = queries, points, lengths1, lengths
        here = [t.to(device) for t in arguments]
        for radius in RADII:
            counts = ball_count(here[0], here[1], radius, here[2], here[3])
            assert torch.equal(counts.cpu(), ball_count_oracle(*arguments, radius))
            for k in (3, 24):
                index = ball_query(here[0], here[1], radius, k, here[2], here[3])
                assert torch.equal(index.cpu(), ball_query_oracle(*arguments, radius, k))


@pytest.mark.parametrize("device", DEVICES)
def test_several_blocks_of_every_level(device):
    """The CUDA kernels search boxes of 32, 1024 and 32768 points: breaks when one of the last boxes is left out."""
    require_kernels(device)
    points = torch.randint(64, (1, 34_000, 3), generator=torch.Generator().manual_seed(5)).float()
    queries = points[:, [0, 17_000, 32_800, 33_999]]
    arguments = queries, points, torch.tensor([4]), torch.tensor([34_000])
    here = [t.to(device) for t in arguments]
    for a, b in zip(knn(*here, 5), knn_oracle(*arguments, 5), strict=True):
        assert torch.equal(a.cpu(), b)
    for radius in (3.0, 1e6):
        counts = ball_count(here[0], here[1], radius, here[2], here[3])
        assert torch.equal(counts.cpu(), ball_count_oracle(*arguments, radius))
    index = ball_query(here[0], here[1], 3.0, 40, here[2], here[3])
    assert torch.equal(index.cpu(), ball_query_oracle(*arguments, 3.0, 40))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [5, 40])
def test_ties_in_other_blocks(k, device):
    """Many points at the same distance, in several boxes of 1024: breaks when a box whose nearest corner is as far as
    the farthest neighbour is skipped, though it may hold a lower index."""
    require_kernels(device)
    points = torch.randint(12, (1, 5000, 3), generator=torch.Generator().manual_seed(6)).float()
    queries = points[:, ::120]
    arguments = queries, points, torch.tensor([queries.shape[1]]), torch.tensor([5000])
    for a, b in zip(knn(*(t.to(device) for t in arguments), k), knn_oracle(*arguments, k), strict=True):
        assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("device", DEVICES)
def test_all_neighbours(device):
    """k=None: breaks when the width is not the largest count."""
    points, lengths = (t.to(device) for t in cloud("lattice_ties"))
    counts = ball_count(points, points, 2.0, lengths, lengths)
    index = ball_query(points, points, 2.0, None, lengths, lengths)
    assert index.shape[2] == counts.max()
    assert torch.equal((index >= 0).sum(2), counts)


def test_padding_of_knn():
    """Breaks when rows of padding or missing neighbours are not (inf, -1)."""
    points, lengths = cloud("some_empty")
    distance, index = knn(points, points, lengths, lengths, 4)
    missing = index == -1
    assert torch.equal(missing.sum((1, 2)), torch.tensor([200, 0, 200, 200 - 4]))
    assert torch.equal(distance.isinf(), missing)


def test_threads_do_not_matter():
    """Breaks when threads share a row or the split into tasks changes a result."""
    require_kernels()
    points = torch.randint(50, (1, 30_000, 3), generator=torch.Generator().manual_seed(1)).float()
    for function in (
        lambda: knn(points, points, None, None, 3)[1],
        lambda: ball_count(points, points, 3.0),
        lambda: ball_query(points, points, 3.0, 16),
    ):
        one, two, four = with_threads((1, 2, 4), function)
        assert torch.equal(one, two) and torch.equal(one, four)


def test_large_cloud():
    """10^6 points: breaks on overflow of an offset, or when time or memory is not near-linear."""
    require_kernels()
    points = torch.randint(500, (1, 1_000_000, 3), generator=torch.Generator().manual_seed(2)).float()
    some = points[:, ::49_999]
    distance, index = knn(points, points, None, None, 4)
    expected_distance, expected_index = knn_oracle(
        some, points, torch.tensor([some.shape[1]]), torch.tensor([1_000_000]), 4
    )
    assert torch.equal(index[:, ::49_999], expected_index)
    assert torch.equal(distance[:, ::49_999], expected_distance)
    counts = ball_count(points, points, 10.0)
    hits = ball_query(some, points, 10.0)
    assert torch.equal(counts[:, ::49_999], (hits >= 0).sum(2))


@pytest.mark.parametrize("size", [200_000])
def test_all_points_equal_is_not_quadratic(size):
    """A cloud of duplicates: breaks (runs for minutes) when inside boxes are not taken whole or bounds not used."""
    require_kernels()
    points = torch.ones(1, size, 3)
    assert (ball_count(points, points, 1.0) == size).all()
    assert torch.equal(ball_query(points[:, :2000], points, 1.0, 8)[0, 1999], torch.arange(8))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda p: knn(p, p.double(), None, None, 2), TypeError, "points: expected torch.float32 like queries"),
        (lambda p: knn(p, p[:1], None, None, 2), ValueError, "points: expected 2 events like queries, got 1"),
        (lambda p: knn(p, p.to("meta"), None, None, 2), ValueError, "points: expected device cpu like queries"),
        (lambda p: knn(p, p, None, torch.tensor([9, 9]), 2), RuntimeError, "expected values in 0..5, got 9"),
        (lambda p: knn(p, p, None, None, -2), ValueError, "k: expected k >= 0, got -2"),
        (lambda p: ball_query(p, p, -1.0, 2), ValueError, "radius: expected a number >= 0, got -1"),
        (lambda p: ball_query(p, p, float("nan"), 2), ValueError, "radius: expected a number >= 0, got nan"),
        (lambda p: ball_count(p.bfloat16(), p, 1.0), TypeError, "queries: expected float32 or float64"),
        (lambda p: ball_count(p, p.numpy(), 1.0), TypeError, "points: expected a tensor"),
    ],
)
def test_errors(call, error, message):
    """Breaks when bad input reaches the kernel or the message stops naming what was expected."""
    with pytest.raises(error, match=message):
        call(torch.zeros(2, 5, 3))


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    """Breaks when schema, fake kernel and kernel disagree."""
    points, lengths = (t.to(device) for t in cloud("random"))
    arguments = points, points, lengths, lengths
    torch.library.opcheck(torch.ops.puffin.knn.default, (*arguments, 4))
    torch.library.opcheck(torch.ops.puffin.ball_count.default, (*arguments, 0.2))
    torch.library.opcheck(torch.ops.puffin.ball_query.default, (*arguments, 0.2, 4))
