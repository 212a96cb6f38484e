"""Reading jets: in memory and from files, and messages for every kind of bad file."""

import h5py
import numpy as np
import pytest
import torch

from puffin.data.jets import JetDataset, JetSelection, open_splits
from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches
from puffin.data.scalars import chosen_scalars
from puffin.data.targets import ClassLabels, Momenta
from puffin.errors import InputError


def particles(jets: int, number: int) -> np.ndarray:
    """Make jets of equal particles with E = 2 and p = (1, 1, 1)."""
    return np.full((jets, number, 4), [2, 1, 1, 1], np.float32)


@pytest.fixture
def two_files(tmp_path):
    """12 jets in two files, with zero-energy entries in the middle; returns (paths, momenta, labels)."""
    rng = np.random.default_rng(0)
    momenta = rng.normal(size=(12, 6, 4)).astype(np.float32)
    momenta[:, :, 0] = 10
    momenta[2, 1] = 0
    for k in range(12):
        momenta[k, 2 + k % 4 :] = 0
    labels = np.arange(12) % 2
    paths = [tmp_path / "train_1.h5", tmp_path / "train_2.h5"]
    for path, part in zip(paths, (slice(0, 7), slice(7, 12)), strict=False):
        with h5py.File(path, "w") as file:
            file["Pmu"], file["is_signal"] = momenta[part], labels[part]
    return paths, momenta, labels


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("nobj", [-1, 3])
def test_batches_hold_the_particles(two_files, in_memory, nobj):
    """Any order, repeats included, over both files. In memory and from files, the batches are the same.

    Zero-energy entries and --nobj have the same effect in both."""
    paths, momenta, labels = two_files
    dataset = JetDataset(paths, JetSelection(nobj=nobj, in_memory=in_memory, scale=2.0))
    wanted = [11, 2, 7, 2, 0]
    batch = dataset[wanted]
    last = None if nobj < 0 else nobj
    events = [momenta[k, :last][momenta[k, :last, 0] != 0] * 2 for k in wanted]
    assert batch.lengths.tolist() == [len(e) for e in events]
    np.testing.assert_array_equal(batch.fourmomenta.numpy(), np.concatenate(events))
    assert batch.target.tolist() == labels[wanted].tolist() and batch.index.tolist() == wanted


def test_no_jets(two_files):
    """An empty batch (a rank without events), in memory and from files."""
    for in_memory in (True, False):
        batch = JetDataset(two_files[0], JetSelection(in_memory=in_memory)).__getitems__([])
        assert (
            len(batch) == 0
            and batch.fourmomenta.shape == (0, 4)
            and batch.target.shape == (0,)
            and batch.index.shape == (0,)
        )


def test_chunks_of_events(two_files, monkeypatch):
    """Chunks are counted over the files, of which the last one may be short; a subset keeps the chunks of its rows."""
    monkeypatch.setattr("puffin.data.jets._ROWS_OF_CHUNK", 3)
    dataset = JetDataset(two_files[0], JetSelection(in_memory=False))  # 7 and 5 jets
    assert dataset.chunk_of_events().tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4]
    dataset.restrict(torch.tensor([1, 6, 11]))
    assert dataset.chunk_of_events().tolist() == [0, 2, 4]
    assert JetDataset(two_files[0], JetSelection()).chunk_of_events() is None


@pytest.mark.parametrize("workers", [0, 2])
def test_order_does_not_depend_on_workers(two_files, workers):
    """The second epoch from batch 1 on, with and without worker processes."""
    dataset = JetDataset(two_files[0], JetSelection(in_memory=False))
    batches = EpochBatches(12, 4, shuffle=True, seed=3)
    loader = make_loader(dataset, batches, workers, False)
    before = torch.get_rng_state()
    batches.start(0)
    first = [b.index.tolist() for b in loader]
    batches.start(1, 1)
    second = [b.index.tolist() for b in loader]
    reference = EpochBatches(12, 4, shuffle=True, seed=3)
    assert first == list(reference)
    reference.start(1)
    assert second == list(reference)[1:] and sorted(sum(first, [])) == list(range(12)) and first != list(reference)
    assert torch.equal(before, torch.get_rng_state())  # loading must not disturb the random sequence of training


def test_ranks_share_an_epoch():
    """Two ranks with batches of 2 see what one process with batches of 4 sees."""
    one = [sorted(b) for b in EpochBatches(12, 4, True, 5)]
    two = [list(EpochBatches(12, 2, True, 5, rank, 2)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*two, strict=False)] == one


def test_one_hot_targets(tmp_path):
    """One-hot rows become class numbers."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["Pmu"], file["tag"] = particles(3, 2), np.eye(3)
    assert JetDataset([tmp_path / "a.h5"], JetSelection(ClassLabels("tag"))).targets.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "row", [[0, 0, 0], [1, 1, 0], [0, 0.5, 0.5], [2, 0, 0], [1, -1, 1], [np.nan, 0, 1], [300.0, 20.0, -40.0]]
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_that_are_not_one_hot(tmp_path, row, in_memory):
    """The message names the key and the first bad jet of the file. Breaks if a row of zeros becomes class 0."""
    for name, rows in (("a", np.eye(3)), ("b", [[0, 1, 0], row, [0, 0, 0]])):
        _write(tmp_path / f"train_{name}.h5", Pmu=particles(3, 2), tag=rows)
    with pytest.raises(InputError, match="train_b.h5: tag: jet 1: expected exactly one of the 3 numbers to be 1"):
        JetDataset(
            [tmp_path / "train_a.h5", tmp_path / "train_b.h5"], JetSelection(ClassLabels("tag"), in_memory=in_memory)
        )


def _write(path, **arrays):
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value


GOOD = particles(4, 3)
NAN = GOOD.copy()
NAN[2, 1, 3] = np.nan


@pytest.mark.parametrize("in_memory", [True, False])
def test_features_targets_and_weights(tmp_path, in_memory):
    """Features follow their particles through padding, nobj and order; momenta of two keys; weights of events."""
    rng = np.random.default_rng(0)
    momenta = rng.normal(size=(6, 5, 4)).astype(np.float32) + [9, 0, 0, 0]
    momenta[1, 3:] = momenta[4, 1:] = 0
    charge = np.where(momenta[..., 0] != 0, rng.integers(-1, 2, (6, 5)), 0)
    truth = rng.normal(size=(6, 2, 4)) + [9, 0, 0, 0]
    _write(tmp_path / "train.h5", Pmu=momenta, charge=charge, a=truth[:, 0], b=truth[:, 1:], w=np.arange(6) / 4)
    scalars = chosen_scalars("jet", False, ["charge:tanh", "charge"])
    dataset = JetDataset([tmp_path / "train.h5"], JetSelection(Momenta(("a", "b")), 4, 1.0, in_memory, scalars, "w"))
    batch = dataset.__getitems__([4, 1, 0])
    assert batch.lengths.tolist() == [1, 3, 4] and torch.allclose(
        batch.target, torch.from_numpy(truth[[4, 1, 0]]).float()
    )
    want = np.concatenate([charge[4, :1], charge[1, :3], charge[0, :4]])
    assert torch.equal(batch.scalars[:, 1], torch.from_numpy(want).float())
    assert torch.allclose(batch.scalars[:, 0], torch.from_numpy(np.tanh(want)).float())
    assert batch.weights.tolist() == [1.0, 0.25, 0.0]
    again = batch.part(0, 1).followed_by(batch.part(1, 3)).to(torch.device("cpu"), torch.float64)
    assert torch.equal(again.scalars, batch.scalars.double()) and torch.equal(again.weights, batch.weights.double())


def test_events_without_truth_are_dropped(tmp_path, caplog):
    """Background jets have no truth momentum (zeros); the numbers of events, and what is read, must agree with that."""
    truth = particles(5, 1)[:, 0]
    truth[[0, 3]] = 0
    momenta = np.arange(1, 6)[:, None, None] * particles(5, 2) / np.float32(2)
    _write(tmp_path / "train.h5", Pmu=momenta, truth_Pmu=truth)
    with caplog.at_level("INFO", "puffin"):
        dataset = open_splits(tmp_path, JetSelection(Momenta()), {"train": 2}, 0)["train"]
    assert "2 of 5 events have no target" in caplog.text and len(dataset) == 2
    assert set(dataset.__getitems__([0, 1]).fourmomenta[::2, 0].tolist()) < {2.0, 3.0, 5.0}


@pytest.mark.parametrize(
    "arrays, selection, message",
    [
        ({}, {"target": Momenta()}, "key 'truth_Pmu' not found"),
        ({"truth_Pmu": np.ones((4, 3))}, {"target": Momenta()}, r"expected \(4, 4\) or \(4, targets, 4\)"),
        ({"truth_Pmu": np.zeros((4, 4))}, {"target": Momenta()}, "no event has a target"),
        ({"truth_Pmu": np.full((4, 4), np.inf)}, {"target": Momenta()}, "truth_Pmu of event 0 is not finite"),
        ({}, {"target": None, "scalars": chosen_scalars("qg", False, [])}, "key 'pdgid' not found"),
        (
            {"pdgid": np.ones((4, 2))},
            {"target": None, "scalars": chosen_scalars("qg", False, [])},
            r"pdgid: expected \(4, 3\)",
        ),
        (
            {"charge": np.full((4, 3), np.nan)},
            {"target": None, "scalars": chosen_scalars("jet", False, ["charge"])},
            "charge of event 0 is not finite",
        ),
        ({"w": np.ones(3)}, {"target": None, "weights": "w"}, r"w: expected \(4,\)"),
        ({"w": -np.ones(4)}, {"target": None, "weights": "w"}, "not negative"),
    ],
)
def test_bad_targets_features_and_weights(tmp_path, arrays, selection, message):
    """Each defect is named with its key."""
    _write(tmp_path / "train.h5", Pmu=GOOD, **arrays)
    with pytest.raises(InputError, match=message):
        JetDataset([tmp_path / "train.h5"], JetSelection(**selection))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"Pmu": GOOD}, r"key 'is_signal' not found \(has: Pmu\)"),
        ({"is_signal": np.zeros(4)}, "key 'Pmu' not found .*use_your_own_jets.md shows"),
        ({"Pmu": GOOD[0], "is_signal": np.zeros(4)}, r"expected shape \(jets, particles, 4\)"),
        ({"Pmu": GOOD, "is_signal": np.zeros(3)}, r"is_signal: expected \(4,\)"),
        ({"Pmu": GOOD, "is_signal": np.full(4, 0.5)}, "expected class numbers"),
        ({"Pmu": GOOD, "is_signal": np.zeros((4, 0))}, "of the 0 numbers"),
        (
            {"Pmu": GOOD, "is_signal": 1},
            r"is_signal: expected \(4,\) or \(4, classes\), one row for each jet, got \(\)",
        ),
        ({"Pmu": NAN, "is_signal": np.zeros(4)}, "event 2 is not finite"),
        ({"Pmu": GOOD[:0], "is_signal": np.zeros(0)}, "at least one jet"),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_files(tmp_path, arrays, message, in_memory):
    """Each defect is named with its file."""
    _write(tmp_path / "train.h5", **arrays)
    with pytest.raises(InputError, match=message):
        JetDataset([tmp_path / "train.h5"], JetSelection(in_memory=in_memory)).__getitems__([0, 2])


def test_truncated_file(run_folder, tmp_path):
    """A truncated file must not give some of its jets."""
    (tmp_path / "train.h5").write_bytes((run_folder / "train.h5").read_bytes()[:200_000])
    with pytest.raises(InputError, match="train.h5"):
        JetDataset([tmp_path / "train.h5"], JetSelection())


def test_missing_folder_and_files(tmp_path):
    """A missing folder is an error; a missing split is not in the result."""
    with pytest.raises(InputError, match="no such folder"):
        open_splits(tmp_path / "nowhere", JetSelection(), {"train": -1}, 0)
    assert open_splits(tmp_path, JetSelection(), {"train": -1}, 0) == {}
