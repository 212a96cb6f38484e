import pytest
import torch

import puffin.ops.cnms
from puffin.ops import library
from puffin.ops.cnms import centrality_nms
from puffin.ops.neighbors import ball_count
from tests.ops.clouds import DEVICES, DTYPES, NAMES, cloud, golden, require_kernels, single_threaded
from tests.ops.processor import with_threads

oracle = single_threaded(puffin.ops.cnms.oracle)


@pytest.mark.parametrize("device", DEVICES)
def test_golden(device):
    """Breaks on another radius, comparison, order of visits, or centrality that leaves out the point itself."""
    g = golden()
    points, lengths = g["points"].to(device), g["lengths"].to(device)
    radius, overlap = g["radius"].item(), g["cnms_overlap"].item()
    counts = ball_count(points, points, 2 * radius * overlap, lengths, lengths).cpu()
    centres = centrality_nms(points, lengths, radius, overlap)
    assert torch.equal(centres.lengths.cpu(), g["cnms_lengths"])
    for event, (n, size) in enumerate(zip(g["cnms_lengths"].tolist(), g["lengths"].tolist(), strict=False)):
        assert torch.equal(counts[event, :size], g["cnms_num_neighbors"][event, :size])
        assert torch.equal(centres.index[event, :n].cpu(), g["cnms_idx"][event, :n])
        assert torch.equal(points[event, centres.index[event, :n], :3].cpu(), g["cnms_centroids"][event, :n])
        assert (centres.index[event, n:] == -1).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_oracle(name, dtype, device):
    """Breaks when ties in centrality are visited in another order, or suppression misses a neighbour."""
    require_kernels(device)
    points, lengths = cloud(name, dtype)
    for radius in (0.0, 0.05, 1.0, 2.5, 1e6):  # query radius = radius at overlap 0.5
        centres = centrality_nms(points.to(device), lengths.to(device), radius, 0.5)
        index, count = oracle(points, lengths, radius)
        assert torch.equal(centres.lengths.cpu(), count)
        assert torch.equal(centres.index.cpu(), index)


@pytest.mark.parametrize("name", ["random", "tracks", "lattice_large"])
def test_covers_and_separates(name):
    """Breaks when a point is farther than the query radius from all centres, or two centres are within it."""
    points, lengths = cloud(name, torch.float64)
    radius = 0.1 if name == "random" else 3.0
    centres = centrality_nms(points, lengths, radius, 0.5)
    for event, n in enumerate(lengths.tolist()):
        positions = points[event, centres.index[event, : centres.lengths[event]], :3]
        assert (torch.cdist(points[event, :n, :3], positions).amin(1) < radius + 1e-6).all()
        assert ((torch.cdist(positions, positions) + 1e9 * torch.eye(len(positions))) > radius - 1e-6).all()


@pytest.mark.skipif(not library.EMULATED, reason="sets what only the emulator of csrc/emulate has")
@pytest.mark.parametrize("resident", ["1", "2", "3", "4"])
def test_waits_only_for_blocks_that_run(resident, monkeypatch):
    """A chain in which every point waits for the one before: breaks (with an error) when a point waits for one that no
    running block has, since a GPU may never start that block."""
    monkeypatch.setenv("PUFFIN_EMULATE_RESIDENT", resident)
    points = torch.zeros(2, 300, 3)
    points[..., 0] = torch.arange(300)
    lengths = torch.tensor([300, 177])
    for a, b in zip(torch.ops.puffin.cnms(points, lengths, 1.5), oracle(points, lengths, 1.5), strict=True):
        assert torch.equal(a, b)


def test_threads_do_not_matter():
    """Breaks when threads share counts."""
    require_kernels()
    points = torch.randint(60, (3, 20_000, 3), generator=torch.Generator().manual_seed(1)).float()
    one, two, four = with_threads((1, 2, 4), lambda: centrality_nms(points, None, 3.0).index)
    assert torch.equal(one, two) and torch.equal(one, four)


def test_large_cloud():
    """10^6 points and 2 10^5 equal ones: breaks on overflow of an offset or quadratic time."""
    require_kernels()
    points = torch.randint(400, (1, 1_000_000, 3), generator=torch.Generator().manual_seed(2)).float()
    centres = centrality_nms(points, None, 2.5)
    index = centres.index[0, : centres.lengths[0]]
    assert (index.diff() > 0).all() and 10_000 < len(index) < 1_000_000
    assert centrality_nms(torch.ones(1, 200_000, 3), None, 2.5).lengths.tolist() == [1]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((torch.zeros(2, 5), None, 1.0), ValueError, "points: expected shape"),
        ((torch.zeros(2, 5, 3).int(), None, 1.0), TypeError, "points: expected float32 or float64"),
        ((torch.zeros(2, 5, 3), torch.tensor([1]), 1.0), ValueError, "lengths: expected shape"),
        ((torch.zeros(2, 5, 3), torch.tensor([1, 7]), 1.0), RuntimeError, "expected values in 0..5, got 7"),
        ((torch.zeros(2, 5, 3), None, -1.0), ValueError, "expected a number >= 0"),
        ((torch.zeros(2, 5, 3), None, 1.0, -0.5), ValueError, "expected a number >= 0"),
    ],
)
def test_errors(arguments, error, message):
    """Breaks when bad input reaches the kernel or the message stops naming what was expected."""
    with pytest.raises(error, match=message):
        centrality_nms(*arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    """Breaks when schema, fake kernel and kernel disagree."""
    points, lengths = (t.to(device) for t in cloud("random"))
    torch.library.opcheck(torch.ops.puffin.cnms.default, (points, lengths, 0.2))
