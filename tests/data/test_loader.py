"""Streaming: batches follow the order of events, for any number of workers."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from puffin.data import jets, sampler
from puffin.data.jet_blocks import JetFile
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError
from tests.conftest import ROOT
from tests.patience import PATIENCE


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two gzip files with 60 and 43 jets in chunks of 8; streaming groups of about 20."""
    monkeypatch.setattr(jets, "_ROWS_OF_CHUNK", 8)
    monkeypatch.setattr(sampler, "GROUP", 20)
    rng = np.random.default_rng(0)
    for name, number in (("a", 60), ("b", 43)):
        momenta = (rng.normal(size=(number, 5, 4)) + [0, 9, 0, 0]).astype(np.float32)
        momenta[:, :, 0] = 20
        momenta[np.arange(5) >= rng.integers(1, 6, (number, 1))] = 0
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("Pmu", data=momenta, chunks=(8, 5, 4), compression="gzip")
            file["is_signal"] = np.arange(number) % 2
    return [tmp_path / "a.h5", tmp_path / "b.h5"]


def stream(files, workers, rank=0, ranks=1, start=(0, 0)):
    dataset = JetDataset(files, JetSelection(in_memory=False))
    batches = EpochBatches(len(dataset), 10, True, 3, rank, ranks, chunk_of=dataset.chunk_of_events())
    batches.start(*start)
    return make_loader(dataset, batches, workers, False), batches


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("rank, ranks", [(0, 1), (1, 2)])
def test_streams_the_batches_of_the_order(files, workers, rank, ranks):
    """Events, labels and momenta of each batch, over two epochs, the second from its third batch on."""
    memory = JetDataset(files, JetSelection())
    loader, batches = stream(files, workers, rank, ranks)
    for start in ((0, 0), (1, 2)):
        batches.start(*start)
        expected = list(batches)
        got = list(loader)
        assert [b.index.tolist() for b in got] == expected and len(loader) == len(expected)
        for batch, numbers in zip(got, expected, strict=False):
            reference = memory.__getitems__(numbers)
            assert torch.equal(batch.fourmomenta, reference.fourmomenta) and torch.equal(
                batch.lengths, reference.lengths
            )
            assert torch.equal(batch.target, reference.target)


def test_last_batch_may_be_empty(files):
    """101 = 5 x 20 + 1 jets: the second of two ranks has none in the last batch, and must get an empty one."""
    dataset = JetDataset(files, JetSelection(in_memory=False))
    batches = EpochBatches(101, 10, False, 0, 1, 2, chunk_of=dataset.chunk_of_events()[:101])
    last = list(make_loader(dataset, batches, 0, False))[-1]
    assert len(last) == 0 and last.fourmomenta.shape == (0, 4)


def test_each_chunk_is_read_once(files, monkeypatch):
    """Reads are contiguous, and no more than there are chunks: 8 of the first file, 6 of the second."""
    read, slices = JetFile.read, []

    def counted(self, rows, *selection):
        slices.append((self.path, rows.start // 8, (rows.stop - 1) // 8))
        return read(self, rows, *selection)

    loader = stream(files, 0)[0]
    monkeypatch.setattr(JetFile, "read", counted)
    list(loader)
    assert len(slices) == len(set(slices)) == 14 and all(first == last for _, first, last in slices)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_is_one_line(files, workers, monkeypatch):
    """A bad file gives one line without the traceback of a worker."""
    with h5py.File(files[0], "a") as file:
        file["Pmu"][33, 0, 1] = np.nan
    monkeypatch.setattr(jets, "look_at", lambda *_: (0, True))  # the start of a larger file has other jets
    loader = stream(files, workers)[0]
    with pytest.raises(InputError) as error:
        list(loader)
    assert str(error.value) == f"{files[0]}: Pmu of event 33 is not finite. Correct or remove the event."


@pytest.mark.parametrize("in_memory", ["True", "False"])
def test_a_loader_left_open_does_not_keep_the_process(files, in_memory):
    """Workers ignore SIGTERM, and Python waits for them at exit. Breaks if they are not killed then, or if their end is
    reported on stderr."""
    code = (
        "import sys\nfrom puffin.data.jets import *\n"
        "from puffin.data.loader import make_loader\nfrom puffin.data.sampler import EpochBatches\n"
        f"dataset = JetDataset(sys.argv[1:], JetSelection(in_memory={in_memory}))\n"
        "batches = EpochBatches(len(dataset), 4, True, chunk_of=dataset.chunk_of_events())\n"
        "iterator = iter(make_loader(dataset, batches, 1, False))\nnext(iterator)\nsys.keep = iterator\n"
    )
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, timeout=PATIENCE, check=True, stderr=subprocess.PIPE)
    assert done.stderr == b""
