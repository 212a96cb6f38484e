"""Order, neighbours and coarser lattices of voxels, against searches written out in Python."""

import itertools

import pytest
import torch

from puffin.ops import library, voxels
from puffin.ops.voxels import coarsen, voxel_neighbours, voxel_order
from tests.conftest import DEVICES
from tests.ops.processor import with_threads
from tests.ops.samples import samples

OFFSETS = list(itertools.product((-1, 0, 1), repeat=3))
LENGTHS = {"some": [40, 0, 1, 90], "one": [1], "empty": [0, 0], "none": [], "one event": [300]}
FAR = [(0, 0, 0), (-3, -1, -7), (2**40 + 3, -(2**40) - 1, 5), (-(2**60), 2**60, -1)]


def events(lengths, origin=(0, 0, 0), size=6, dtype=torch.int64):
    """Different voxels of each event in a cube around the origin, in any order; ptr."""
    parts = []
    for n in lengths:
        cell = torch.randperm(size**3)[:n]
        parts.append(torch.stack([cell // size**2, cell // size % size, cell % size], 1) - size // 2)
    coordinates = torch.cat([torch.zeros(0, 3, dtype=torch.int64), *parts]) + torch.tensor(origin)
    return coordinates.to(dtype), torch.tensor([0, *itertools.accumulate(map(len, parts))])


def sorted_events(*args, **kwargs):
    """The same in the order of `voxel_order`."""
    coordinates, ptr = events(*args, **kwargs)
    return coordinates[voxel_order(coordinates, ptr)], ptr


def event_rows(coordinates, ptr):
    """For each event its voxels as tuples, with their rows."""
    rows = [tuple(c) for c in coordinates.tolist()]
    return [{rows[i]: i for i in range(a, b)} for a, b in itertools.pairwise(ptr.tolist())]


@pytest.mark.parametrize("origin", FAR)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_order_visits_octants_one_after_the_other(lengths, origin):
    """On every lattice the voxels of a cell follow each other, and events stay in place. Breaks if the offset of the
    codes is not a multiple of the cells, or rounds towards zero."""
    coordinates, ptr = events(LENGTHS[lengths], origin, size=7)
    order = voxel_order(coordinates, ptr)
    for a, b in itertools.pairwise(ptr.tolist()):
        assert sorted(order[a:b].tolist()) == list(range(a, b))
        for level in range(4):
            cells = [tuple(c) for c in (coordinates[order[a:b]] >> level).tolist()]
            assert len(list(itertools.groupby(cells))) == len(set(cells))


def test_order_follows_the_octants():
    """x decides before y and z, so that the children of a voxel have the order of their octants."""
    cube = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    assert voxel_order(cube.flip(0), torch.tensor([0, 8])).tolist() == list(range(7, -1, -1))


def test_order_refuses_outliers():
    """Codes of more than 63 bits would be wrong; extents below are fine wherever they begin."""
    ptr = torch.tensor([0, 2])
    for low in (0, -1, 2**16 - 1, -(2**50) + 7):
        far = low + 2**21 - 2**16
        assert voxel_order(torch.tensor([[0, 0, far - 1], [0, 0, low]]), ptr).tolist() == [1, 0]
        with pytest.raises(ValueError, match="at most 2.21 - 2.16 voxels"):
            voxel_order(torch.tensor([[0, 2**21 + low, 0], [0, low, 0]]), ptr)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("origin", FAR)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_neighbours(lengths, origin, dtype, device):
    """Every index, from a dictionary. Breaks if an event sees another, or one side of the lattice the other."""
    if dtype == torch.int32 and max(map(abs, origin)) >= 2**31:
        pytest.skip("int32 does not hold these coordinates")
    coordinates, ptr = events(LENGTHS[lengths], origin, dtype=dtype)
    want = torch.full((len(coordinates), 27), -1, dtype=torch.int32)
    for rows in event_rows(coordinates, ptr):
        for (x, y, z), row in rows.items():
            want[row] = torch.tensor([rows.get((x + a, y + b, z + c), -1) for a, b, c in OFFSETS])
    got = voxel_neighbours(coordinates.to(device), ptr.to(device))
    assert got.dtype == torch.int32 and torch.equal(got.cpu(), want)
    assert torch.equal(voxels._neighbours_oracle(coordinates.long(), ptr), want)


def test_neighbours_of_distant_clusters():
    """Extents that no code of 63 bits holds."""
    near, ptr = events([30, 25, 20], size=4)
    far = near + torch.tensor([[-(2**60), 2**59, 0], [2**60, 0, -(2**60)], [0, 0, 0]]).repeat_interleave(ptr.diff(), 0)
    assert torch.equal(voxel_neighbours(far, torch.tensor([0, 75])), voxel_neighbours(near, ptr))


def test_duplicates_are_refused():
    """The same voxel twice is an error of one line within an event, and none in two events."""
    coordinates = torch.tensor([[0, 0, 0], [3, 4, 5], [0, 0, 0]])
    assert voxel_neighbours(coordinates, torch.tensor([0, 2, 3]))[:, 13].tolist() == [0, 1, 2]
    with pytest.raises((ValueError, RuntimeError), match="got a voxel twice") as caught:
        voxel_neighbours(coordinates, torch.tensor([0, 3]))
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("origin", FAR)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_coarse_lattices(lengths, origin, device):
    """Three lattices, one above the other, each against sets of tuples, and the tables against each other."""
    coordinates, ptr = (t.to(device) for t in sorted_events(LENGTHS[lengths], origin))
    for _ in range(3):
        coarse = coarsen(coordinates, ptr)
        assert coarse.children.shape == (len(coarse.coordinates), 8) and coarse.children.dtype == torch.int32
        assert coarse.parent_table.shape == (len(coordinates), 8) and coarse.parent_table.dtype == torch.int32
        above = event_rows(coarse.coordinates, coarse.ptr)
        children = torch.full_like(coarse.children, -1, device="cpu")
        parents = torch.full_like(coarse.parent_table, -1, device="cpu")
        for fine, rows in zip(event_rows(coordinates, ptr), above, strict=True):
            assert set(rows) == {(x >> 1, y >> 1, z >> 1) for x, y, z in fine}
            for (x, y, z), row in fine.items():
                octant, parent = 4 * (x % 2) + 2 * (y % 2) + z % 2, rows[x >> 1, y >> 1, z >> 1]
                children[parent, octant], parents[row, octant] = row, parent
        assert torch.equal(coarse.children.cpu(), children) and torch.equal(coarse.parent_table.cpu(), parents)
        coordinates, ptr = coarse.coordinates, coarse.ptr


@pytest.mark.skipif(not library.has_cpu_kernel(torch.zeros(1)), reason="CPU kernels not built")
def test_neighbours_do_not_depend_on_threads():
    """The same table with 1 and 3 threads."""
    coordinates, ptr = events([900, 5, 0, 700, 800], size=12)
    assert torch.equal(*with_threads((1, 3), lambda: voxel_neighbours(coordinates, ptr)))


def test_opcheck():
    """Schema and fake kernels."""
    torch.library.opcheck(torch.ops.puffin.voxel_neighbours.default, samples()["voxel_neighbours"])


def test_large_event():
    """Tables of 108 and 32 bytes a voxel: breaks if time or memory grow with the volume or the square of the rows."""
    size = 100
    coordinates = torch.cartesian_prod(*[torch.arange(size) * 3] * 3) - 150
    coordinates += torch.arange(size**3)[:, None] % 2  # pairs of neighbours along the diagonal
    ptr = torch.tensor([0, size**3])
    coordinates = coordinates[voxel_order(coordinates, ptr)]
    neighbours = voxel_neighbours(coordinates, ptr)
    assert torch.equal(neighbours[:, 13], torch.arange(size**3, dtype=torch.int32))
    assert int((neighbours >= 0).sum()) == size**3
    assert len(coarsen(coordinates, ptr).coordinates) == len(torch.unique(coordinates >> 1, dim=0))


def test_unsorted_rows_are_refused():
    """`coarsen` of rows in another order repeats a voxel, which the next call refuses."""
    coarse = coarsen(torch.tensor([[0, 0, 0], [4, 0, 0], [1, 0, 0]]), torch.tensor([0, 3]))
    with pytest.raises((ValueError, RuntimeError), match="got a voxel twice"):
        voxel_neighbours(coarse.coordinates, coarse.ptr)


@pytest.mark.parametrize("function", [voxel_order, voxel_neighbours, coarsen])
def test_bad_arguments_raise(function):
    """The face names the argument."""
    coordinates, ptr = events([3, 2])
    for args, name in (
        ((coordinates[0], ptr), "coordinates"),
        ((coordinates[:, :2], ptr), "coordinates"),
        ((coordinates.float(), ptr), "coordinates"),
        ((coordinates, ptr.int()), "ptr"),
        ((coordinates, ptr[:0]), "ptr"),
        ((coordinates, ptr.to("meta")), "ptr"),
    ):
        with pytest.raises(ValueError, match=name):
            function(*args)
