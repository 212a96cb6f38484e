"""Reading PILArNet-M: all versions and both layouts, the preparation, and messages for every kind of bad file."""

import os
import pickle
import re
from pathlib import Path

import h5py
import index_pilarnet
import numpy as np
import pytest
import repack_pilarnet
import torch

from puffin.data import pilarnet
from puffin.data.loader import make_loader
from puffin.data.pilarnet import CloudDataset, CloudSelection, open_splits
from puffin.data.pilarnet_files import BadEvent, EventFile, checksum, find_files, index_path, make_index
from puffin.data.sampler import EpochBatches
from puffin.data.splits import files_by_folder
from puffin.errors import InputError
from puffin.files import whole_file

ALL = CloudSelection(remove_led=False, energy_threshold=0, emin=0.01, min_points=0)
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample_data" / "lartpc"


def random_event(rng, sizes=(5, 9, 0, 6)):
    """Make points (N, 8) and clusters (M, 6); the first cluster is LED."""
    points = np.zeros((sum(sizes), 8), np.float32)
    points[:, :3] = rng.integers(0, 768, (sum(sizes), 3))
    points[:, 3] = rng.uniform(0, 5, sum(sizes))
    points[:, 4:] = -5  # not read
    clusters = np.array([[n, k, k // 2, k // 3, k % 4, k % 5] for k, n in enumerate(sizes)], np.int64)
    clusters[0, 1:] = [-1, -1, -1, 4, -1]
    return points, clusters


def write(path, events, version="v2"):
    """Write events to a file in the published layout."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with h5py.File(path, "w") as file:
        for name, kind in (("point", "f4"), ("cluster", "i8"), ("cluster_extra", "f4")):
            file.create_dataset(name, (len(events),), h5py.vlen_dtype(kind))
        for k, (points, clusters) in enumerate(events):
            file["point"][k] = points.reshape(-1)
            file["cluster"][k] = (clusters[:, :5] if version == "v1" else clusters).reshape(-1)
            file["cluster_extra"][k] = np.zeros({"v1": 0, "v2": 5, "v3": 6}[version] * len(clusters))
    return path


@pytest.fixture
def events():
    rng = np.random.default_rng(0)
    return [random_event(rng, sizes) for sizes in [(5, 9, 0, 6), (0, 4), (7,), (3, 2, 1), (8, 30, 5, 2, 9)]]


def replaced(events, number, column=None, value=None, clusters=None):
    """Return the events with one of them changed."""
    points, old = events[number][0].copy(), events[number][1]
    if column is not None:
        points[-1, column] = value
    return [*events[:number], (points, old if clusters is None else clusters), *events[number + 1 :]]


# ---- what a batch holds


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("packed", [False, True])
def test_batches_hold_the_events(events, tmp_path, version, packed):
    """Any order, repeats included, over two files.

    Breaks if columns are mixed up (for example that of the energy), clusters are expanded wrongly (empty ones!), or the
    packed layout differs from the published one."""
    files = [
        write(tmp_path / "in" / f"{name}.h5", part, version) for name, part in (("a", events[:3]), ("b", events[3:]))
    ]
    if packed:
        repack_pilarnet.main(
            [str(tmp_path / "in"), "--outdir", str(tmp_path / "out"), *(["--compress"] if version == "v3" else [])]
        )
        files = [tmp_path / "out" / f.name for f in files]
    dataset = CloudDataset(files, ALL)
    assert dataset.version == version and len(dataset) == 5
    numbers = [4, 0, 2, 2, 1]
    batch = dataset[numbers]
    chosen = [events[k] for k in numbers]
    points = np.concatenate([p for p, _ in chosen])
    assert batch.lengths.tolist() == [len(p) for p, _ in chosen] and batch.index.tolist() == numbers
    assert batch.points.dtype == torch.float32
    assert torch.allclose(batch.points[:, :3], torch.from_numpy(points[:, :3] - 384) / (384 * 3**0.5), atol=1e-6)
    expected = 2 * (np.log10(points[:, 3] + 0.01) + 2) / (np.log10(20.01) + 2) - 1
    assert np.allclose(batch.points[:, 3], expected, atol=1e-6)
    assert batch.semantic.dtype == torch.int64
    assert batch.semantic.tolist() == np.concatenate([np.repeat(c[:, 4], c[:, 0]) for _, c in chosen]).tolist()


def test_preparation(events, tmp_path):
    """Only cluster 0 is removed as LED, the threshold is strict, and eps is the threshold.

    Breaks with another order or eps."""
    points, clusters = events[0]
    points[5, 3], points[6, 3] = 0.13, 0.131
    clusters[3, 4] = 4  # a class-4 cluster that is not the first stays
    dataset = CloudDataset([write(tmp_path / "a.h5", events)], CloudSelection(min_points=20))
    assert dataset.events.tolist() == [0, 4]
    batch = dataset[0]
    kept = (points[:, 3] > np.float32(0.13)) & (np.arange(20) >= 5)
    assert not kept[5] and kept[6]
    assert batch.lengths.tolist() == [kept.sum()]
    energy = points[kept, 3]
    assert np.allclose(batch.points[:, 3], 2 * np.log10((energy + 0.13) / 0.13) / np.log10(20.13 / 0.13) - 1, atol=1e-6)
    assert CloudSelection(energy_threshold=0).eps == 0.01 and CloudSelection(emin=0.02).eps == 0.02


def test_places(events, tmp_path):
    """Positions of events and points in the files, after others were dropped."""
    paths = [write(tmp_path / f"{name}_v2.h5", part) for name, part in (("a", events[:2]), ("b", events[2:]))]
    dataset = CloudDataset(paths, CloudSelection(min_points=0, energy_threshold=0.3, emin=0.01, rows=True))
    chosen = torch.arange(len(dataset))[::2]
    dataset.restrict(chosen)
    numbers = torch.arange(len(dataset))
    batch, (files, rows) = dataset.__getitems__(numbers.tolist()), dataset.places(numbers)
    for event, file, row, points, places in zip(
        numbers,
        files,
        rows,
        batch.points.split(batch.lengths.tolist()),
        batch.row.split(batch.lengths.tolist()),
        strict=False,
    ):
        assert int(file) * 2 + int(row) == int(chosen[event])
        with EventFile(paths[file]) as source:
            original = source.read(int(row))[0]
        assert np.allclose((original[places, :3] - 384) / (384 * 3**0.5), points[:, :3], atol=1e-6) and len(
            places
        ) < len(original)
    assert CloudDataset(paths, ALL).__getitems__([0]).row is None


def test_first_cluster_that_is_not_led_stays(events, tmp_path):
    """Breaks if cluster 0 is removed without a check: an event without LED would lose a particle."""
    events[3][1][0, 4] = 1
    dataset = CloudDataset([write(tmp_path / "a.h5", events)], CloudSelection(energy_threshold=0, min_points=0))
    assert dataset.__getitems__([3, 2]).lengths.tolist() == [6, 0]


@pytest.mark.parametrize("skip", [False, True])
def test_led_outside_of_the_first_cluster(events, tmp_path, skip):
    """With strict_led only the event with such LED is bad, not the others of its batch; an empty cluster is allowed."""
    events[3][1][2, 4] = events[0][1][2, 4] = 4
    strict = CloudSelection(min_points=0, strict_led=True, skip_bad=skip)
    dataset = CloudDataset([write(tmp_path / "a.h5", events)], strict)
    if not skip:
        with pytest.raises(BadEvent, match="a.h5: event 3: .* --skip-bad"):
            dataset.__getitems__([0, 3, 4])
    else:
        batch = dataset.__getitems__([0, 3, 4])
        assert batch.index.tolist() == [0, 4] and batch.skipped == 1 and 4 not in batch.semantic
    dataset.selection = CloudSelection(min_points=0, strict_led=True, remove_led=False)
    assert len(dataset.__getitems__([0, 3, 4])) == 3


@pytest.mark.parametrize("skip", [False, True])
def test_coordinates_off_the_lattice(events, tmp_path, skip):
    """With on_lattice an event with half a voxel is bad, and the message says what was expected."""
    events[3][0][1, 0] = 12.5
    dataset = CloudDataset(
        [write(tmp_path / "a.h5", events)], CloudSelection(min_points=0, on_lattice=True, skip_bad=skip)
    )
    if not skip:
        with pytest.raises(BadEvent, match=r"event 3: expected whole numbers .* got \[12.5, .* point 1. .* --skip-bad"):
            dataset.__getitems__([0, 3])
    else:
        assert dataset.__getitems__([0, 3, 4]).index.tolist() == [0, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same(events, tmp_path, workers):
    """Breaks if open files are sent to the workers."""
    dataset = CloudDataset([write(tmp_path / "a.h5", events)], ALL)
    whole = dataset.__getitems__(list(range(5)))
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].points, dataset[0].points)  # what a spawned worker gets
    batches = list(make_loader(dataset, EpochBatches(5, 2, shuffle=False), workers, pin_memory=False))
    assert torch.equal(torch.cat([b.points for b in batches]), whole.points)
    assert torch.equal(torch.cat([b.semantic for b in batches]), whole.semantic)
    dataset.close()


def test_batch_moves(events, tmp_path):
    """Breaks if ids are cast with the points, or lengths leave the CPU."""
    batch = (
        CloudDataset([write(tmp_path / "a.h5", events)], ALL)
        .__getitems__([0, 1])
        .to(torch.device("meta"), torch.bfloat16)
    )
    assert batch.points.dtype == torch.bfloat16 and batch.semantic.dtype == torch.int64
    assert batch.semantic.device.type == "meta" and batch.lengths.device.type == "cpu" and len(batch) == 2


def test_splits_and_subsets(events, tmp_path):
    """Breaks if val/ is not found for valid, or the subset does not follow the seed."""
    for folder in ("train", "val"):
        write(tmp_path / folder / "x.h5", events * 4)
    first, again, other = (
        open_splits(tmp_path, ALL, {"train": 6, "valid": -1, "test": -1}, seed) for seed in (1, 1, 2)
    )
    assert {split: len(d) for split, d in first.items()} == {"train": 6, "valid": 20}
    assert first["train"].events.equal(again["train"].events) and not first["train"].events.equal(other["train"].events)


# ---- the index


def test_index(events, tmp_path):
    """Counts of all clusters, LED included; the index is built if missing, and used if it exists.

    Breaks if the index depends on min_points."""
    path = write(tmp_path / "a.h5", events)
    assert len(CloudDataset([path], CloudSelection(min_points=10))) == 2
    assert np.load(index_path(path)).tolist() == [20, 4, 7, 6, 54]
    counts = np.array([20, -1, 7, 6, 54])
    np.save(index_path(path), counts)
    assert len(CloudDataset([path], CloudSelection(min_points=0, skip_bad=True))) == 4
    assert np.load(index_path(path)).tolist() == counts.tolist()


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("wrong", [[54, 6, 7, 4, 20], [0] * 5, [20, 4, 7], [20.0] * 5, None])
def test_wrong_index(events, tmp_path, monkeypatch, wrong, skip_bad):
    """An index of another file (reversed, or all too small), of another length or dtype, or no index: it is rebuilt.

    There is one warning for both files. Breaks if a wrong index is used, or if it stops a run that skips bad events."""
    paths = [write(tmp_path / f"{name}.h5", events) for name in "ab"]
    for path in paths:
        index_path(path).write_bytes(b"no index") if wrong is None else np.save(index_path(path), np.array(wrong))
    warnings = []
    monkeypatch.setattr(pilarnet.log, "warning", warnings.append)
    dataset = CloudDataset(paths, CloudSelection(min_points=7, remove_led=False, energy_threshold=0, skip_bad=skip_bad))
    assert dataset.__getitems__(list(range(len(dataset)))).lengths.tolist() == [20, 7, 54] * 2
    assert len(warnings) == 1 and re.search("2 indices .*a_points.npy.*index_pilarnet.py --force", warnings[0])
    assert np.load(index_path(paths[1])).tolist() == [20, 4, 7, 6, 54]
    warnings.clear()
    CloudDataset(paths, ALL)
    assert not warnings


def test_wrong_index_of_an_event(events, tmp_path):
    """A wrong count that the comparison of a few events misses is found when the event is read; it can be skipped."""
    path = write(tmp_path / "a.h5", events * 4)
    counts = make_index(path)
    counts[1] = 30
    np.save(index_path(path), counts)
    with pytest.raises(BadEvent, match="expected 4 points for event 1, got 30.*index_pilarnet.py --force"):
        CloudDataset([path], CloudSelection(min_points=10)).__getitems__([1])
    batch = CloudDataset([path], CloudSelection(min_points=10, skip_bad=True)).__getitems__([0, 1])
    assert batch.index.tolist() == [0] and batch.skipped == 1


def test_packed_files_need_no_index(events, tmp_path):
    """Breaks if the index next to a packed file is used: the file itself stores where its events begin."""
    write(tmp_path / "in" / "a.h5", events)
    repack_pilarnet.main([str(tmp_path / "in"), "--outdir", str(tmp_path)])
    np.save(index_path(tmp_path / "a.h5"), np.zeros(5, int))
    assert CloudDataset([tmp_path / "a.h5"], CloudSelection(min_points=7)).events.tolist() == [0, 2, 4]
    index_path(tmp_path / "a.h5").unlink()
    assert CloudDataset([tmp_path / "a.h5"], CloudSelection(min_points=7)).events.tolist() == [0, 2, 4]


def test_index_tool(events, tmp_path, capsys):
    """Two processes; an existing index is kept. Breaks if the order of files and counts is mixed up."""
    paths = [write(tmp_path / "train" / f"{k}.h5", events[k:]) for k in range(3)]
    np.save(index_path(paths[1]), np.zeros(4, int))
    index_pilarnet.main([str(tmp_path), "-j", "2"])
    assert "2 files indexed: 8 events, 0 bad" in capsys.readouterr().out
    assert np.load(index_path(paths[2])).tolist() == [7, 6, 54] and np.load(index_path(paths[1])).tolist() == [0] * 4
    index_pilarnet.main([str(tmp_path), "--force"])
    assert np.load(index_path(paths[1])).tolist() == [4, 7, 6, 54]
    with pytest.raises(SystemExit, match="expected .h5 files, found none"):
        (tmp_path / "empty").mkdir()
        index_pilarnet.main([str(tmp_path / "empty")])


# ---- bad files and events


def bad_events(events):
    clusters = events[1][1]
    off = clusters + np.array([1, 0, 0, 0, 0, 0])
    classes = clusters + np.array([0, 0, 0, 0, 3, 0])
    return {
        "add up": replaced(events, 1, clusters=off),
        "semantic classes 0 to 4": replaced(events, 1, clusters=classes),
        "NaN": replaced(events, 1, 3, np.nan),
        "coordinates 0 to 767, got .* to 768": replaced(events, 1, 2, 768),
        "coordinates 0 to 767, got -1": replaced(events, 1, 0, -1),
        "rows of 6 numbers in 'cluster'": replaced(events, 1, clusters=clusters.reshape(-1)[:-1].reshape(-1, 1)),
        "rows of 8 numbers in 'point'": [events[0], (events[1][0].reshape(-1)[:-3], clusters), *events[2:]],
    }


@pytest.mark.parametrize("complaint", bad_events([random_event(np.random.default_rng(0))] * 5))
def test_bad_events(events, tmp_path, complaint):
    """The error names the file and the event. With skip_bad, the event is counted and dropped.

    This holds when the index is built and when the event is read; a packed copy keeps it as an empty event. Breaks if a
    check is lost or a bad event shifts the others."""
    path = write(tmp_path / "in" / "a.h5", bad_events(events)[complaint])
    with pytest.raises(BadEvent, match=f"(?s)a.h5: event 1: .*{complaint}"):
        CloudDataset([path], ALL).__getitems__([0, 1])

    index_path(path).unlink(missing_ok=True)
    lenient = CloudSelection(remove_led=False, energy_threshold=0, emin=0.01, min_points=0, skip_bad=True)
    dataset = CloudDataset([path], lenient)
    batch = dataset.__getitems__(list(range(len(dataset))))
    assert dataset.skipped + batch.skipped == 1
    assert batch.lengths.tolist() == [20, 7, 6, 54]
    assert dataset.events[batch.index].tolist() == [0, 2, 3, 4]
    if len(dataset) == 5:
        empty = dataset.__getitems__([1])
        assert len(empty) == 0 and empty.skipped == 1
        assert empty.points.shape == (0, 4) and empty.semantic.shape == (0,)

    out = ["--outdir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="event 1"):
        repack_pilarnet.main([str(tmp_path / "in"), *out])
    assert not list((tmp_path / "out").glob("*"))
    repack_pilarnet.main([str(tmp_path / "in"), *out, "--skip-bad"])
    with EventFile(tmp_path / "out" / "a.h5") as packed:
        assert [len(packed.read(k)[0]) for k in range(5)] == [20, 0, 7, 6, 54]


def test_bad_files(events, tmp_path):
    """Breaks if one of these ends in a traceback of h5py, or is read as data."""
    good = write(tmp_path / "good.h5", events)
    (tmp_path / "text.h5").write_text("no HDF5")
    whole = good.read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["Pmu"] = np.zeros((3, 4))
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["point"], file["cluster"] = np.zeros((3, 8)), np.zeros((3, 5))
    write(tmp_path / "empty.h5", [])
    for name, complaint in (
        ("empty", "holds no events"),
        ("text", "not a readable HDF5 file"),
        ("cut", "not a readable HDF5 file"),
        ("none", "no such file"),
        ("other", r"key 'point' not found \(has: Pmu\)"),
        ("flat", "rows of variable length"),
    ):
        with pytest.raises(InputError, match=f"{name}.h5: .*{complaint}"):
            CloudDataset([good, tmp_path / f"{name}.h5"], ALL)
    dataset = CloudDataset([good, tmp_path / "text.h5"], CloudSelection(min_points=0, skip_bad=True))
    assert dataset.skipped == 1 and len(dataset) == 5
    with pytest.raises(InputError, match="none of 1 files can be read"):
        CloudDataset([tmp_path / "text.h5"], CloudSelection(skip_bad=True))
    with pytest.raises(InputError, match="none of 5 events has 1024 points; see --min-points"):
        CloudDataset([good], CloudSelection())


def test_mixed_versions(events, tmp_path):
    """Breaks if v1 and v2, which have different columns, are read together. Not even skip_bad allows it."""
    files = [write(tmp_path / f"{v}.h5", events, v) for v in ("v1", "v2")]
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=r"files of one version.*v1 \(v1.h5\), v2 \(v2.h5\)"):
            CloudDataset(files, CloudSelection(min_points=0, skip_bad=skip_bad))


def test_version_by_name_without_extra(events, tmp_path):
    """v2 and v3 have the same columns, so without cluster_extra the name decides; v1 has other columns."""
    for name, version, expected in (
        ("generic_v2_5_v3", "v2", "v3"),
        ("plain", "v2", "v2"),
        ("generic_v2_5_v2", "v1", "v1"),
    ):
        path = write(tmp_path / f"{name}.h5", events, version)
        with h5py.File(path, "a") as file:
            del file["cluster_extra"]
        with EventFile(path) as file:
            assert file.version == expected


def test_folders(tmp_path):
    """Breaks if a wrong --datadir gives an empty data set instead of an error."""
    with pytest.raises(InputError, match="no such folder"):
        files_by_folder(tmp_path / "none")
    with pytest.raises(InputError, match="found none. Pass another folder"):
        files_by_folder(tmp_path)
    for flag, setting in (("--emin", "emin"), ("--energy-threshold", "energy_threshold")):  # flags that exist
        with pytest.raises(
            InputError, match=f"^{flag}: expected more than 0 and less than 20 MeV, which becomes .1, got 30"
        ):
            CloudSelection(**{setting: 30})


def test_hidden_files_are_ignored(events, tmp_path):
    """Files that are being written, files that macOS leaves, and hidden folders are ignored.

    A hidden folder above the data is allowed. Breaks if training reads a partial file while a conversion writes it."""
    folder = tmp_path / ".cache" / "data"
    good = write(folder / "train" / "a.h5", events)
    with whole_file(folder / "train" / "b.h5") as unfinished:
        unfinished.write_bytes(good.read_bytes()[:100])
        (folder / "train" / "._a.h5").write_bytes(b"Mac OS X")
        write(folder / ".trash" / "c.h5", events)
        assert files_by_folder(folder)["train"] == [good] and find_files([folder]) == [good]
        assert find_files([unfinished]) == [unfinished]  # asked for by name
        good.unlink()
        with pytest.raises(InputError, match="found none"):
            files_by_folder(folder)


# ---- repacking


def test_repack_continues_and_verifies(events, tmp_path, capsys):
    """Breaks if finished files are rewritten, or damage is not noticed."""
    for k in range(2):
        write(tmp_path / "in" / "train" / f"{k}.h5", events[k:])
    out = tmp_path / "out"
    repack_pilarnet.main([str(tmp_path / "in"), "--outdir", str(out), "-j", "2"])
    (out / "train" / "1.h5").unlink()
    before = (out / "train" / "0.h5").stat().st_mtime_ns
    repack_pilarnet.main([str(tmp_path / "in"), "--outdir", str(out)])
    assert "1 file repacked (1 already existed): 4 events" in capsys.readouterr().out
    assert (out / "train" / "0.h5").stat().st_mtime_ns == before
    assert np.array_equal(np.load(index_path(out / "train" / "1.h5")), make_index(tmp_path / "in" / "train" / "1.h5"))
    repack_pilarnet.main([str(out), "--verify"])
    assert "2 files, 9 events: all match their checksums" in capsys.readouterr().out
    with h5py.File(out / "train" / "0.h5", "a") as file:
        file["points"][21, 3] += 1e-3
    with pytest.raises(SystemExit, match="0.h5: event 1: does not match its checksum"):
        repack_pilarnet.main([str(out), "--verify"])
    with pytest.raises(SystemExit, match="is the folder of the source"):
        repack_pilarnet.main([str(out), "--outdir", str(out)])


def test_repack_into_a_folder_of_the_source(events, tmp_path, capsys):
    """Breaks if files that are already packed are packed again."""
    for k in range(2):
        write(tmp_path / f"{k}.h5", events)
    again = [str(tmp_path), "--outdir", str(tmp_path / "packed")]
    repack_pilarnet.main(again)
    (tmp_path / "packed" / "1.h5").unlink()
    repack_pilarnet.main(again)
    assert "1 file repacked (1 already existed)" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "packed").iterdir()) == ["0.h5", "0_points.npy", "1.h5", "1_points.npy"]


@pytest.mark.parametrize("other", ["fewer events", "other events", "older", "published"])
def test_repack_of_another_source(events, tmp_path, other):
    """A file of the same name is kept only if it was made from this source or a copy of it.

    Breaks if training uses the events of another source."""
    source, target = write(tmp_path / "in" / "a.h5", events), tmp_path / "out" / "a.h5"
    again = [str(tmp_path / "in"), "--outdir", str(tmp_path / "out")]
    repack_pilarnet.main(again)
    os.utime(source, (0, 0))  # a copy
    repack_pilarnet.main(again)
    if other == "older":  # without this attribute only the number of events can be compared
        with h5py.File(target, "a") as file:
            del file.attrs["source_bytes"]
        repack_pilarnet.main(again)
    if other == "published":
        target.write_bytes(source.read_bytes())
    else:
        write(source, [events[4]] * 5 if other == "other events" else events[:4])
    with pytest.raises(SystemExit, match="out/a.h5: expected the packed copy of .*in/a.h5 .*another .*--outdir"):
        repack_pilarnet.main(again)


def test_verify_has_no_options(capsys):
    """Breaks if --verify accepts --compress or --skip-bad and ignores them."""
    for flag in ("--compress", "--skip-bad"):
        with pytest.raises(SystemExit):
            repack_pilarnet.main([".", "--verify", flag])
        assert "--verify writes nothing; do not pass --compress" in capsys.readouterr().err


def test_packed_files_are_checked(events, tmp_path):
    """Breaks if wrong offsets in a file are used."""
    write(tmp_path / "in" / "a.h5", events)
    repack_pilarnet.main([str(tmp_path / "in"), "--outdir", str(tmp_path)])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["point_ptr"][-1] = 1000
    with pytest.raises(InputError, match="offsets that ascend"):
        EventFile(tmp_path / "a.h5")


# ---- the committed sample


@pytest.mark.parametrize("split, number", [("train", 64), ("val", 16)])
def test_sample(split, number):
    """Breaks if the sample is damaged, not indexed, or no longer similar to the data that it replaces."""
    files = files_by_folder(SAMPLE)["train" if split == "train" else "valid"]
    assert [index_path(f).exists() for f in files] == [True]
    dataset = CloudDataset(files, CloudSelection(min_points=0, remove_led=False, energy_threshold=0))
    assert len(dataset) == number and dataset.version == "v2"
    with EventFile(files[0]) as file:
        assert all(checksum(*file.read(k)) == c for k, c in enumerate(file.checksums()))
    batch = dataset.__getitems__(list(range(number)))
    share = batch.semantic.bincount(minlength=5) / len(batch.points)
    assert 2500 < len(batch.points) / number < 6500 and share[:2].min() > 0.2 and share[4] > 0.1 and share.min() > 0
    assert len(CloudDataset(files, CloudSelection())) > 0.7 * number
