"""data/make_lartpc.py: voxels, clusters, whole events, files."""

import subprocess
import sys
from pathlib import Path

import h5py
import make_lartpc
import numpy as np
import pytest
from lartpc import voxels
from lartpc.argon import ELECTRON, MUON, PHOTON, PROTON
from lartpc.events import Recipe, primaries, simulate
from lartpc.particles import DELTA, LED, MICHEL, SHOWER, TRACK, Fragments
from lartpc.tracks import EDGE, SIZE, VOXEL, Segments, inside

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data" / "make_lartpc.py"


@pytest.fixture(scope="module")
def events():
    return simulate(24, Recipe(), np.random.default_rng(3))


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE
    )


def segments_of(start, end, energy, fragment):
    """Make segments from lists, in voxels."""
    start, end = np.array(start, float) * VOXEL, np.array(end, float) * VOXEL
    return Segments(
        start,
        end,
        np.array(energy, float),
        np.linalg.norm(end - start, axis=1),
        np.zeros(len(start)),
        np.array(fragment),
    )


def fragments_of(semantic):
    """Make the fragments of one event, one for each entry of `semantic`, their classes."""
    n = len(semantic)
    return Fragments(
        np.zeros(n, int),
        np.zeros(n, int),
        np.arange(n),
        np.array(semantic),
        np.zeros(n, int),
        np.zeros(n),
        np.zeros(n),
        np.zeros((n, 3)),
    )


# ---- voxels


def test_segments_are_cut_at_walls():
    """A step across three walls leaves its energy in four voxels, in proportion.

    Breaks if deposits are put at midpoints."""
    filled = voxels.fill(segments_of([[1.5, 1.25, 1.75]], [[2.25, 2.25, 2.5]], [1.0], [0]), np.zeros(1, int))
    # walls: z at 1/3, x at 2/3, y at 3/4 of the way
    assert filled.cell.tolist() == [[1, 1, 1], [1, 1, 2], [2, 1, 2], [2, 2, 2]]
    assert np.allclose(filled.energy, [1 / 3, 1 / 3, 1 / 12, 1 / 4])
    assert np.allclose(filled.length.sum(), VOXEL * np.sqrt(0.75**2 + 1 + 0.75**2))


def test_random_segments_keep_their_energy():
    """Compare with a fine sampling of each segment. Breaks for segments along an axis, backwards, or in one voxel."""
    rng = np.random.default_rng(0)
    start = rng.uniform(5, 8, (300, 3))
    step = rng.normal(size=(300, 3))
    step *= (rng.uniform(0, 1, (300, 1)) / np.linalg.norm(step, axis=1, keepdims=True)) * (rng.random((300, 3)) < 0.8)
    filled = voxels.fill(segments_of(start, start + step, np.full(300, 100.0), np.zeros(300, int)), np.zeros(1, int))
    fine = np.floor(start[:, None] + step[:, None] * ((np.arange(500) + 0.5) / 500)[:, None]).astype(int)
    cells, counts = np.unique(fine.reshape(-1, 3), axis=0, return_counts=True)
    dense = np.zeros((12, 12, 12))
    dense[tuple(cells.T)] = counts * 100 / 500
    dense[tuple(filled.cell.T)] -= filled.energy
    assert filled.energy.sum() == pytest.approx(30_000)
    assert np.abs(dense).max() < 5


def test_voxel_goes_to_the_larger_deposit():
    """Breaks if shared voxels appear twice, lose energy, or go to the last fragment; events must not mix."""
    segments = segments_of([[3.5] * 3] * 4, [[3.5] * 3] * 4, [0.2, 0.3, 0.2, 9.0], [0, 1, 0, 2])
    filled = voxels.fill(segments, np.array([0, 0, 1]))
    assert filled.event.tolist() == [0, 1] and filled.fragment.tolist() == [0, 2]
    assert np.allclose(filled.energy, [0.7, 9.0])


def test_nothing_outside_or_too_faint():
    """Breaks if voxel 768 or -1 exists (or wraps round to another place), or faint voxels are recorded."""
    segments = segments_of(
        [[767.5, 5, 5], [0.2, 5, 5], [9, 9, 9]], [[768.4, 5, 5], [-0.4, 5, 5], [9, 9, 9]], [1, 1, 0.005], [0, 0, 0]
    )
    filled = voxels.fill(segments, np.zeros(1, int))
    assert sorted(filled.cell[:, 0].tolist()) == [0, 767]


def test_small_pieces_join_what_they_touch_or_are_led():
    """Breaks if pieces do not touch by their corners, or the size limit is wrong.

    Also if a voxel at the detector's wall touches the first voxel of the next row."""
    enough = voxels.SMALLEST[SHOWER]
    places = [
        [[x, 0, 0] for x in range(20)],  # 0: the track
        [[20, 1, 1]],  # 1: touches the track
        [[22, 1, 1]],  # 2: touches only 1
        [[50, 50, z] for z in (765, 766, 767)],  # 3: alone at the wall; z = 768 would be the first voxel of 4
        [[50, 51, z] for z in range(enough)],  # 4: large enough
    ]
    owner = np.repeat(np.arange(5), [len(p) for p in places])
    cells = sum(places, [])
    cells = np.array(cells)
    order = np.lexsort(cells.T[::-1])
    table = voxels.Voxels(
        np.zeros(len(cells), int),
        cells[order],
        np.ones(len(cells)),
        np.zeros(len(cells)),
        np.ones(len(cells)),
        owner[order],
    )
    fragment, led = voxels.settle_small(table, fragments_of([TRACK, SHOWER, SHOWER, SHOWER, SHOWER]))
    settled = {
        int(o): (set(fragment[owner[order] == o].tolist()), set(led[owner[order] == o].tolist())) for o in range(5)
    }
    assert settled == {0: ({0}, {False}), 1: ({0}, {False}), 2: ({2}, {True}), 3: ({3}, {True}), 4: ({4}, {False})}


# ---- events


def test_primaries():
    """Breaks if two primaries share a fragment, because their classes would mix.

    Also if crossing muons start inside, or interactions are not numbered within the event."""
    particles, event, interaction = primaries(200, Recipe(), np.random.default_rng(0))
    assert np.array_equal(particles.fragment, np.arange(len(particles)))
    assert inside(particles.position).all() and np.allclose(np.linalg.norm(particles.direction, axis=1), 1)
    for k in range(200):
        mine = interaction[event == k]
        assert set(mine) == set(range(mine.max() + 1))
    rain = (particles.direction[:, 1] < 0) & (np.minimum(particles.position, EDGE - particles.position).min(1) < 1e-6)
    assert 70 < rain.sum() < 170 and (particles.kind[rain] == MUON).all()
    assert (
        set(np.unique(particles.charge[particles.kind == PHOTON])) == {0}
        and (particles.charge[particles.kind == PROTON] == 1).all()
    )


def test_rows_of_events(events):
    """The layout that readers rely on.

    Breaks if points are not in order of clusters, a voxel appears twice, or LED is not first."""
    for event in events:
        points, clusters = event.points, event.clusters
        assert clusters[0, 1:].tolist() == [-1, -1, -1, LED, -1] and clusters[:, 0].sum() == len(points)
        assert (clusters[1:, 0] > 0).all() and (clusters[1:, 4] < LED).all()
        assert np.array_equal(clusters[1:, 1], np.arange(len(clusters) - 1))
        assert (clusters[1:, 2] <= clusters[1:, 1]).all() and clusters[1:, 2:4].min(initial=0) >= 0
        assert len(np.unique(points[:, :3], axis=0)) == len(points)
        assert points[:, :3].min() >= 0 and points[:, :3].max() < SIZE and np.isfinite(points).all()
        assert points[:, 3].min() >= np.float32(voxels.FAINTEST) and np.array_equal(points[:, 3], points[:, 4])
        assert len(event.extra) == len(clusters)


def test_classes_and_pid_agree(events):
    """Tracks are mu, pi, p; showers e or photons; Michel and delta electrons. Breaks if fragments are mixed."""
    clusters = np.concatenate([e.clusters[1:] for e in events])
    allowed = {SHOWER: {PHOTON, ELECTRON}, TRACK: {2, 3, 4}, MICHEL: {ELECTRON}, DELTA: {ELECTRON}}
    for semantic, pids in allowed.items():
        assert set(clusters[clusters[:, 4] == semantic, 5].tolist()) == pids


def test_tracks_are_long_and_led_is_scattered(events):
    """Most LED voxels have no neighbour outside LED; muon tracks deposit about 2 MeV/cm.

    Breaks if classes are assigned by chance."""
    losses = []
    for event in events:
        owner = np.repeat(np.arange(len(event.clusters)), event.clusters[:, 0])
        for number, row in enumerate(event.clusters):
            if row[5] == MUON and row[4] == TRACK and row[0] > 200:
                mine = event.points[owner == number]
                losses.append(mine[:, 4].sum() / mine[:, 7].sum())
    assert 1.9 < np.median(losses) < 2.6
    led = np.concatenate([e.points[: e.clusters[0, 0], 3] for e in events])
    assert led.mean() < 0.3


def test_class_fractions():
    """Within 25% of PILArNet-M for the three large classes, and a factor of 2 for the small ones.

    Breaks if a parameter is changed without this comparison."""
    clusters = np.concatenate([e.clusters for e in simulate(96, Recipe(), np.random.default_rng(8))])
    total = clusters[:, 0].sum()
    share = np.array([clusters[clusters[:, 4] == k, 0].sum() / total for k in range(5)])
    published = np.array([0.368, 0.389, 0.0065, 0.0176, 0.219])
    assert (np.abs(share / published - 1) < [0.25, 0.25, 1, 1, 0.25]).all()
    assert 3500 < total / 96 < 5500


# ---- files


@pytest.mark.parametrize("version, width, extra", [("v1", 5, None), ("v2", 6, 5), ("v3", 6, 6)])
def test_formats(events, tmp_path, version, width, extra):
    """Breaks if a row of a file is not that of the event, or the index does not match the file."""
    path = tmp_path / f"lartpc_3_{version}.h5"
    make_lartpc.write_events(path, iter(events[:3]), 3, version, {"seed": 1})
    assert np.load(tmp_path / f"lartpc_3_{version}_points.npy").tolist() == [len(e.points) for e in events[:3]]
    with h5py.File(path) as file:
        assert set(file) == {"point", "cluster"} | ({"cluster_extra"} if extra else set())
        for k, event in enumerate(events[:3]):
            assert np.array_equal(file["point"][k].reshape(-1, 8), event.points)
            assert np.array_equal(file["cluster"][k].reshape(-1, width), event.clusters[:, :width])
            if extra:
                assert np.array_equal(file["cluster_extra"][k].reshape(-1, extra)[:, :5], event.extra)


def test_files_do_not_depend_on_jobs(tmp_path):
    """Breaks if blocks or processes share a random stream, or results are written in the order in which they arrive."""
    for jobs in (1, 2):
        done = run("--outdir", tmp_path / str(jobs), "--num-train", 34, "--num-val", 0, "--seed", 4, "-j", jobs)
        assert done.returncode == 0, done.stderr
    name = "train/lartpc_34_v2.h5"
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert not (tmp_path / "1" / "val").exists()
    # a longer file begins with the events of a shorter one
    second = make_lartpc.make_block((4, 0, 1, 5))
    with h5py.File(tmp_path / "1" / name) as file:
        assert np.array_equal(file["point"][33].reshape(-1, 8), second[1].points)


def test_seeds_and_splits_differ():
    """Breaks if the random stream does not depend on the split or the seed."""
    events = [make_lartpc.make_block(task)[0].points for task in ((4, 0, 0, 1), (4, 1, 0, 1), (5, 0, 0, 1))]
    assert len({e.tobytes() for e in events}) == 3


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (
            ["--num-train", "0", "--num-val", "0"],
            "--num-train, --num-val and --num-test are all 0; at least one must be positive",
        ),
        (["-j", "0"], "argument -j/--jobs: expected an integer of at least 1, got '0'"),
        (["--seed", "-1"], "argument --seed: expected an integer of at least 0, got '-1'"),
        (["--format", "v4"], "invalid choice"),
        (["--outdir", str(SCRIPT)], "is a file"),
    ],
)
def test_bad_arguments(tmp_path, arguments, complaint):
    """Breaks if a bad argument gives a traceback or is refused only after the simulation."""
    done = run("--outdir", tmp_path, *arguments)
    assert done.returncode == 2 and complaint in done.stderr and "Traceback" not in done.stderr


def test_no_events_twice(tmp_path, capsys):
    """Another size or format in the same split is refused at once; the same file is overwritten.

    Other splits are not changed. Breaks if a folder gets a larger file next to a smaller one with the same events."""
    flags = ["--outdir", str(tmp_path), "--num-val", "0"]
    make_lartpc.main([*flags, "--num-train", "2"])
    (tmp_path / "train" / ".lartpc_3_v2.h5.x.h5").touch()  # of a run that was killed
    first = (tmp_path / "train/lartpc_2_v2.h5").read_bytes()
    for other in (["--num-train", "3"], ["--num-train", "2", "--format", "v1"]):
        with pytest.raises(SystemExit) as stop:
            make_lartpc.main([*flags, *other])
        assert stop.value.code == 2
        assert "lartpc_2_v2.h5 would stay in the folder of lartpc_" in capsys.readouterr().err
    assert not list((tmp_path / "train").glob("lartpc_[!2]*")) and not list((tmp_path / "train").glob("*v1*"))
    make_lartpc.main([*flags, "--num-train", "2", "--num-test", "1"])
    assert (tmp_path / "train/lartpc_2_v2.h5").read_bytes() == first and (tmp_path / "test/lartpc_1_v2.h5").exists()
