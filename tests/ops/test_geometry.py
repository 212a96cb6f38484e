import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from puffin.ops import geometry, library
from puffin.ops.geometry import component_geometry, components, geometry_names, local_geometry
from puffin.ops.neighbors import ball_count, knn
from tests.ops.clouds import DTYPES, NAMES, cloud, require_kernels, single_threaded
from tests.ops.processor import check_instruction_set, with_threads

geometry_oracle = single_threaded(geometry.geometry_oracle)
components_oracle = single_threaded(geometry.components_oracle)

SCALES = (1, 5, 20, 70), (0.0, 0.3, 1.0, 5.0)  # 1 and 5 are distances on the lattice: strictly below matters
OTHER_SCALES = ((8,), (2.0, *map(float, range(10)))), ((), (2.0,)), ((30, 60), (0.5,))
FEW = slice(None, None, 20 if library.EMULATED else 1)  # the emulator is slow


def packed(name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The named cloud as points (P, 4) with random energies, and ptr."""
    points, lengths = cloud(name, dtype)
    xyz = torch.cat([points.new_zeros(0, 3), *(event[:n, :3] for event, n in zip(points, lengths, strict=True))])
    energy = torch.rand(len(xyz), 1, generator=torch.Generator().manual_seed(3)).to(dtype)
    return torch.cat([xyz, energy], dim=1), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def one_event(xyz: Tensor) -> tuple[Tensor, Tensor]:
    """An event of these positions, energies 1, 2, 3, 1, ..."""
    energy = 1 + torch.arange(len(xyz)) % 3
    return torch.cat([xyz, energy[:, None].to(xyz.dtype)], dim=1), torch.tensor([0, len(xyz)])


def columns(points: Tensor, ptr: Tensor, *scales) -> dict[str, Tensor]:
    """The columns of local_geometry by name."""
    return dict(zip(geometry_names(*scales), local_geometry(points, ptr, *scales).unbind(1), strict=True))


def assert_alike(a: Tensor, b: Tensor) -> None:
    """Equal up to the tolerance that the docstring of local_geometry states, relative for all but shares."""
    torch.testing.assert_close(a, b, rtol=2e-6 if a.dtype == torch.float32 else 1e-9, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_oracle(name, dtype):
    """Breaks on another neighbourhood (ties, k > n, the point itself), moment or radius."""
    require_kernels()
    points, ptr = packed(name, dtype)
    for neighbours, radii in (SCALES, *OTHER_SCALES[FEW]):
        got = local_geometry(points, ptr, neighbours, radii)
        assert_alike(got, geometry_oracle(points, ptr, list(neighbours), list(radii)))
    for radius in (0.0, 0.05, 1.0, 1.8, 1e6):
        assert torch.equal(components(points, ptr, radius), components_oracle(points, ptr, radius))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["random", "lattice_ties", "tracks", "far_away", "outliers"])
def test_agrees_with_neighbour_search(name, dtype):
    """Breaks if a distance is rounded differently from those of knn and ball_count, or a comparison differs."""
    points, ptr = packed(name, dtype)
    for begin, end in itertools.pairwise(ptr.tolist()):
        event = points[begin:end]
        got = columns(event, torch.tensor([0, end - begin]), *SCALES)
        for k in SCALES[0]:
            d = knn(event[None, :, :3], event[None, :, :3], None, None, min(k, len(event)))[0]
            root = np.sqrt(d[0, :, -1].numpy())  # rounded correctly, unlike torch.sqrt
            assert torch.equal(got[f"k{k}_reach"], torch.from_numpy(root))
        for radius in SCALES[1]:
            counts = ball_count(event[None, :, :3], event[None, :, :3], radius)
            assert torch.equal(got[f"r{radius:g}_points"], counts[0].to(dtype))


def test_known_shapes():
    """A line, a plane and a full lattice around the point in the middle: shares, sizes and energies by hand."""
    line = torch.zeros(11, 3)
    line[:, 1] = torch.arange(11)
    got = {name: float(x[5]) for name, x in columns(*one_event(line), (5, 11), (2.0, 3.0)).items()}
    assert (got["k5_share1"], got["k5_share2"], got["k5_share3"]) == pytest.approx((1, 0, 0), abs=1e-7)
    assert got["k5_size"] == pytest.approx(2**0.5) and got["k11_size"] == pytest.approx(10**0.5)
    assert (got["k5_centroid"], got["k5_reach"], got["k11_reach"]) == (0, 2, 5)
    assert got["k11_alignment"] == pytest.approx(1)
    assert (got["k5_energy_mean"], got["k5_energy_std"]) == pytest.approx((1.8, 0.56**0.5))  # of 1, 2, 3, 1, 2
    assert (got["r2_points"], got["r3_points"]) == (3, 5)
    grid = torch.cartesian_prod(*[torch.arange(5.0)] * 2)
    plane = torch.cat([grid, torch.full((25, 1), 4.0)], dim=1)
    got = columns(*one_event(plane), (25,), ())
    assert_alike(torch.stack([got[f"k25_share{i}"] for i in (1, 2, 3)], 1), torch.tensor([[0.5, 0.5, 0]]).expand(25, 3))
    ball = torch.cartesian_prod(*[torch.arange(5.0)] * 3)
    got = columns(*one_event(ball), (7, 27), ())
    for k in (7, 27):
        for i in (1, 2, 3):
            assert float(got[f"k{k}_share{i}"][62]) == pytest.approx(1 / 3, abs=1e-7)
    assert float(got["k27_size"][62]) == pytest.approx(2**0.5)


def test_alignment_of_a_kink():
    """A track with a right angle: seen from one arm, the near and the far points lie on different lines."""
    arm = torch.zeros(40, 3)
    arm[:, 0] = torch.arange(40)
    other = torch.zeros(400, 3)
    other[:, 1] = 1 + torch.arange(400)
    got = columns(*one_event(torch.cat([arm, other])), (9, 400), ())["k400_alignment"]
    assert got[10] < 0.05 and got[-200] > 0.999


def test_shares_are_eigenvalues():
    """Closed form or not: eigenvalues of random and of nearly degenerate matrices to the stated tolerance."""
    x = torch.randn(400, 20, 3, dtype=torch.float64) * torch.logspace(-6, 0, 400, dtype=torch.float64)[:, None, None]
    x[..., 0] = x[..., 0] / x[:, :1, 0].abs() * torch.logspace(-9, 3, 400, dtype=torch.float64)[:, None]
    points = torch.cat([x, torch.ones(400, 20, 1, dtype=torch.float64)], dim=2).flatten(0, 1)
    got = local_geometry(points, torch.arange(0, 8001, 20), (20,), ())[::20, :3]
    values = torch.linalg.eigvalsh(torch.stack([event.T.cov(correction=0) for event in x])).flip(1)
    torch.testing.assert_close(got, values / values.sum(1, keepdim=True), rtol=0, atol=1e-7)


def test_order_of_points_does_not_matter():
    """A permutation of the points permutes the rows; on a lattice the columns of geometry are equal bit for bit."""
    points, ptr = packed("lattice_ties")
    event = points[: int(ptr[1])]
    order, ptr = torch.randperm(len(event)), torch.tensor([0, len(event)])
    names = geometry_names(*SCALES)
    geometric = [i for i, name in enumerate(names) if "energy" not in name]
    a, b = local_geometry(event, ptr, *SCALES)[order], local_geometry(event[order], ptr, *SCALES)
    assert_alike(a, b)
    assert torch.equal(a[:, geometric], b[:, geometric])
    a, b = component_geometry(event, ptr, 1.0)[order], component_geometry(event[order], ptr, 1.0)
    assert_alike(a, b)


def test_symmetry_of_the_lattice():
    """The 48 rotations and reflections that keep the lattice, with shifts, leave all columns alike."""
    require_kernels()
    points, ptr = packed("lattice_large", torch.float64)
    expected, component = local_geometry(points, ptr, *SCALES), component_geometry(points, ptr, 1.5)
    symmetries = list(itertools.product(itertools.permutations(range(3)), itertools.product((-1.0, 1.0), repeat=3)))
    for axes, signs in symmetries[FEW]:
        moved = points.clone()
        moved[:, :3] = points[:, axes] * torch.tensor(signs, dtype=torch.float64) + 1000
        assert_alike(local_geometry(moved, ptr, *SCALES), expected)
        assert_alike(component_geometry(moved, ptr, 1.5), component)


def test_a_point_links_two_others():
    """Two points farther apart than the radius, and a third that is near both, in every orientation: one component.

    Breaks if a box of points, all of them near a later point, is linked to it by its first point alone."""
    require_kernels()
    triple, events = torch.tensor([[0.0, 0, 0.75], [0, 0, -0.75], [0.5, 0, 0]]), []
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product((-1.0, 1.0), repeat=3)):
        events.append(triple[:, axes] * torch.tensor(signs))
    points = torch.cat([torch.cat(events), torch.ones(3 * len(events), 1)], 1)
    ptr = torch.arange(0, len(points) + 1, 3)
    assert torch.equal(components(points, ptr, 1.0), ptr[:-1].repeat_interleave(3))


@pytest.mark.parametrize("name", ["random", "some_empty", "tracks"])
def test_batch_mates_do_not_matter(name):
    """Each event alone gives the same bits."""
    points, ptr = packed(name)
    together, linked = local_geometry(points, ptr, *SCALES), components(points, ptr, 1.0)
    for begin, end in itertools.pairwise(ptr.tolist()):
        alone = points[begin:end], torch.tensor([0, end - begin])
        assert torch.equal(together[begin:end], local_geometry(*alone, *SCALES))
        assert torch.equal(linked[begin:end], begin + components(*alone, 1.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_coordinates_lose_nothing(dtype):
    """A cloud far from the origin, on a lattice that its dtype still holds: the same bits as at the origin."""
    points, ptr = packed("lattice_large", dtype)
    far = points.clone()
    far[:, :3] += 1e7
    assert torch.equal(far[:, :3] - 1e7, points[:, :3])
    assert torch.equal(local_geometry(far, ptr, *SCALES), local_geometry(points, ptr, *SCALES))
    assert torch.equal(component_geometry(far, ptr, 2.0), component_geometry(points, ptr, 2.0))


def test_energies_keep_their_digits():
    """Deviation of energies that are nearly equal: breaks if it is the difference of two large float32 numbers."""
    points, ptr = one_event(torch.rand(50, 3))
    points[:, 3] += 1e5
    got = columns(points, ptr, (50,), ())["k50_energy_std"]
    assert_alike(got, points[:, 3].double().std(correction=0).float().expand(50))


def test_components_of_two_tracks():
    """Two chains that touch at no point, listed in turns, and a point between events: sizes, energies, extents."""
    x = torch.zeros(20, 4)
    x[::2, 0] = torch.arange(9, -1, -1)
    x[1::2, 0], x[1::2, 1] = torch.arange(10), 3
    x[:, 3] = 0.5
    points, ptr = torch.cat([x, x[:1]]), torch.tensor([0, 20, 20, 21])
    assert components(points, ptr, 1.0).tolist() == [0, 1] * 10 + [20]
    assert components(points, ptr, 0.99).tolist() == list(range(21))
    assert components(points, ptr, 3.0).tolist() == [0] * 20 + [20]
    got = component_geometry(points, ptr, 1.0)
    assert torch.equal(got[:20], torch.tensor([[10.0, 5, 4.5]]).expand(20, 3))
    assert got[20].tolist() == [1, 0.5, 0]


def test_distances_that_differ_in_the_last_bit():
    """Breaks (never ends) when the search for the k-th distance finds no number between two neighbouring floats."""
    require_kernels()
    x = torch.zeros(257, 3)
    x[1:, 0] = 1.42 + torch.arange(64).repeat_interleave(4) * 2**-23
    points, ptr = one_event(x)
    neighbours = list(range(2, 257))[FEW]
    assert_alike(local_geometry(points, ptr, neighbours, ()), geometry_oracle(points, ptr, neighbours, []))


def test_links_through_a_third_box():
    """16 points are linked to all of a box of 8 and 8 that are not linked to each other; both are one component.

    Breaks when only one point of a box that is within the radius as a whole is united with the others."""
    points = torch.zeros(64, 4)
    points[:, 1] = torch.tensor([-100.0, 0, 1, 100]).repeat_interleave(16)
    points[32:48, 0] = torch.tensor([-1.0, 1]).repeat_interleave(8)
    got = components(points, torch.tensor([0, 64]), 1.5)
    assert torch.equal(got, torch.tensor([0, 16, 16, 48]).repeat_interleave(16))


def test_no_points():
    """No events, empty events, and no columns."""
    for ptr in ([0], [0, 0, 0]):
        nothing, ptr = torch.zeros(0, 4), torch.tensor(ptr)
        assert local_geometry(nothing, ptr).shape == (0, len(geometry_names()))
        assert components(nothing, ptr, 1.0).shape == (0,)
        assert component_geometry(nothing, ptr, 1.0).shape == (0, 3)
    assert local_geometry(torch.zeros(5, 4), torch.tensor([0, 5]), (), ()).shape == (5, 0)


def test_does_not_change_its_input():
    """Nor does it need gradients."""
    points, ptr = packed("random")
    before = points.clone()
    assert not local_geometry(points.requires_grad_(), ptr).requires_grad
    assert not component_geometry(points, ptr, 1.0).requires_grad
    assert torch.equal(points, before)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda p, ptr: local_geometry(p[:, :3], ptr), ValueError, "points: expected .P, 4.: x, y, z, energy"),
        (lambda p, ptr: local_geometry(p.half(), ptr), TypeError, "points: expected float32 or float64"),
        (lambda p, ptr: local_geometry(p, ptr.int()), ValueError, "ptr: expected .S . 1,. int64"),
        (lambda p, ptr: local_geometry(p, ptr + 1), RuntimeError, "ptr: expected"),
        (lambda p, ptr: local_geometry(p, ptr.flip(0)), RuntimeError, "ptr: expected"),
        (lambda p, ptr: local_geometry(p, ptr, (8, 8)), ValueError, "neighbours: expected numbers >= 1, ascending"),
        (lambda p, ptr: local_geometry(p, ptr, (0,)), ValueError, "neighbours: expected numbers >= 1, ascending"),
        (lambda p, ptr: local_geometry(p, ptr, (4.0,)), TypeError, "k: expected an int"),
        (lambda p, ptr: local_geometry(p, ptr, (4,), (-1.0,)), ValueError, "radius: expected a number >= 0"),
        (lambda p, ptr: components(p[0], ptr, 1.0), ValueError, "points: expected .P, 4."),
        (lambda p, ptr: components(p, ptr[:1], 1.0), RuntimeError, "ptr: expected"),
        (lambda p, ptr: components(p, ptr, float("nan")), ValueError, "radius: expected a number >= 0"),
    ],
)
def test_errors(call, error, message):
    """Breaks when bad input reaches the kernel or the message stops naming what was expected."""
    with pytest.raises(error, match=message):
        call(torch.zeros(5, 4), torch.tensor([0, 2, 5]))


def test_threads_do_not_matter():
    """Bit for bit, in one large event and in many."""
    require_kernels()
    points = torch.randint(60, (20_000, 4), generator=torch.Generator().manual_seed(1)).float()
    for ptr in (torch.tensor([0, 20_000]), torch.arange(0, 20_001, 500)):
        one, three = with_threads((1, 3), lambda ptr=ptr: local_geometry(points, ptr, (8, 40), (3.0, 6.0)))
        assert torch.equal(one, three)
        one, three = with_threads((1, 3), lambda ptr=ptr: components(points, ptr, 1.8))
        assert torch.equal(one, three)


def test_large_cloud():
    """10^5 scattered points and 2 10^5 equal ones: breaks (runs for minutes) when time is quadratic."""
    require_kernels()
    points = torch.randint(3000, (100_000, 4), generator=torch.Generator().manual_seed(2)).float()
    some = torch.arange(0, 100_000, 9_973)
    ptr, scales = torch.tensor([0, 100_000]), ((4, 20), (60.0,))
    reach = columns(points, ptr, *scales)["k20_reach"][some]
    assert torch.equal(reach.square().round(), knn(points[None, some], points[None], None, None, 20)[0][0, :, -1])
    assert (components(torch.ones(200_000, 4), torch.tensor([0, 200_000]), 0.0) == 0).all()


@pytest.mark.skipif(library.EMULATED, reason="concerns the CPU library")
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_other_instruction_sets_agree(level):
    """The tests of values above, with the code for other machines than this one, as far as it can run it."""
    require_kernels()
    check_instruction_set(level, [__file__], "equals_oracle or agrees_with or eigenvalues or digits")


def test_opcheck():
    """Breaks when schema, fake kernel and kernel disagree."""
    points, ptr = packed("some_empty")
    torch.library.opcheck(torch.ops.puffin.local_geometry.default, (points, ptr, [2, 5], [0.3]))
    torch.library.opcheck(torch.ops.puffin.components.default, (points, ptr, 0.3))
