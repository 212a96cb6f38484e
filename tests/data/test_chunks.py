"""Chunked arrays: the same numbers, whatever the chunks, and no chunk is decompressed twice."""

import h5py
import numpy as np
import pytest

from puffin.data import chunks
from puffin.data.chunks import open_with_cache, read_rows, rows_at_once, warn_of_slow_chunks
from puffin.data.hdf5 import ArrayFile, open_hdf5
from puffin.data.jets import JetDataset, JetSelection
from puffin.errors import InputError


def save(path, values, name="Pmu", **options):
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=values, **options)
    return path


class Spied:
    """An array that notes which parts of it are read."""

    def __init__(self, array):
        self._array, self.read = array, []

    def __getattr__(self, name):
        return getattr(self._array, name)

    def __getitem__(self, region):
        self.read.append(region)
        return self._array[region]


@pytest.mark.parametrize("stored", [(7, 3, 1), (7, 3, 4), (100, 2, 3), (7, 20, 4), (1, 1, 1), None])
@pytest.mark.parametrize("rows", [slice(0, 100), slice(5, 40), slice(14, 21), slice(99, 120), slice(3, 3)])
@pytest.mark.parametrize("last", [None, 1, 10, 50])
def test_same_numbers(tmp_path, stored, rows, last):
    """Breaks if a part is missing or misplaced, if a request spans chunks, or if two requests need one chunk."""
    values = np.random.default_rng(0).normal(size=(100, 20, 4)).astype(np.float32)
    with h5py.File(save(tmp_path / "a.h5", values, chunks=stored)) as file:
        array = Spied(file["Pmu"])
        found = read_rows(array, rows, last)
        np.testing.assert_array_equal(found, values[rows, :last])
        assert found.dtype == np.float32
    if stored is not None and any(chunk < size for chunk, size in zip(stored[1:], found.shape[1:], strict=True)):
        numbers = [
            tuple((axis.start // c, (axis.stop - 1) // c) for axis, c in zip(region, stored, strict=True))
            for region in array.read
        ]
        assert len(set(numbers)) == len(numbers) and all(a == b for number in numbers for a, b in number)


def test_arrays_of_one_axis(tmp_path):
    with h5py.File(save(tmp_path / "a.h5", np.arange(100), chunks=(7,))) as file:
        assert read_rows(file["Pmu"], slice(5, 9)).tolist() == [5, 6, 7, 8]


def test_cache_holds_the_chunks_of_a_row(tmp_path, monkeypatch):
    """Breaks if the cache is not set, because another reference keeps the array open with HDF5's cache."""
    values = np.zeros((4096, 300, 4), np.float32)
    path = save(tmp_path / "a.h5", values, chunks=(4096, 10, 1), compression="gzip")
    with ArrayFile(path) as file:
        access = file.array("Pmu").id.get_access_plist()
        slots, size, _ = access.get_chunk_cache()
        assert size == 4096 * 300 * 4 * 4 and slots >= 100 * 30 * 4
        assert file.values("Pmu", slice(0, 3)).shape == (3, 300, 4)
    monkeypatch.setattr(chunks, "_LARGEST_CACHE", 2**20)
    with open_hdf5(path) as file:
        array = file["Pmu"]
        default = array.id.get_access_plist().get_chunk_cache()
        assert open_with_cache(file, "Pmu", array).id.get_access_plist().get_chunk_cache() == default


def test_rows_at_once(tmp_path, monkeypatch):
    """Whole chunks, unless they are too large."""
    with h5py.File(save(tmp_path / "a.h5", np.zeros((100, 20, 4), np.float32), chunks=(30, 3, 1))) as file:
        assert [rows_at_once(file["Pmu"], n) for n in (1, 30, 59, 95)] == [30, 30, 30, 90]
        monkeypatch.setattr(chunks, "_LARGEST_BLOCK", 30 * 20 * 4 * 4 - 1)
        assert rows_at_once(file["Pmu"], 20) == 20


def test_jets_are_read_by_whole_chunks(tmp_path, monkeypatch):
    """In memory, with chunks of 5000 jets. Breaks if blocks of 4096 jets decompress most chunks twice."""
    momenta = np.tile(np.array([2, 1, 1, 1], np.float32), (12000, 6, 1))
    path = save(tmp_path / "train.h5", momenta, chunks=(5000, 2, 1), compression="gzip")
    save(path, np.arange(12000) % 2, "is_signal")
    read, original = [], h5py.Dataset.__getitem__

    def spy(array, region):
        if array.name == "/Pmu":
            read.append(tuple((axis.start, axis.stop) for axis in region))
        return original(array, region)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    dataset = JetDataset([path], JetSelection(nobj=4))
    assert len(read) == len(set(read)) == 3 * 2 * 4 and dataset.__getitems__([11999]).lengths.tolist() == [4]
    assert {rows for rows, *_ in read} == {(0, 5000), (5000, 10000), (10000, 12000)}


def test_slow_chunks_are_named_with_a_remedy(tmp_path, monkeypatch, caplog):
    path = save(tmp_path / "a.h5", np.zeros((5000, 200, 4), np.float32), chunks=(5000, 1, 1))
    with h5py.File(path) as file:
        warn_of_slow_chunks(file["Pmu"], "a.h5")
        assert caplog.messages == []
        monkeypatch.setattr(chunks, "_LARGEST_CACHE", 2**20)
        warn_of_slow_chunks(file["Pmu"], "a.h5")
    (message,) = caplog.messages
    assert "Pmu is stored in chunks of 5000 x 1 x 1, which are slow" in message
    assert message.endswith("Store it again: h5repack -l Pmu:CHUNK=163x200x4 a.h5 NEW_FILE")


@pytest.mark.parametrize("kind, percent", [("chunks", 30), ("contiguous", 100), ("virtual", 25), ("written", None)])
def test_labels_that_were_never_written(tmp_path, caplog, kind, percent):
    """A warning. Breaks if signal counts as background without a word, as its labels are read as 0."""
    path, labels = tmp_path / "train.h5", np.arange(100) % 2
    save(path, np.tile(np.array([2, 1, 1, 1], np.float32), (100, 3, 1)))
    with h5py.File(path, "a") as file:
        if kind == "virtual":
            file["part"] = labels[:75]
            layout = h5py.VirtualLayout((100,), int)
            layout[:75] = h5py.VirtualSource(file["part"])
            file.create_virtual_dataset("is_signal", layout)
        elif kind == "written":
            file["is_signal"] = labels
        else:
            made = file.create_dataset("is_signal", (100,), int, chunks=(10,) if kind == "chunks" else None)
            if kind == "chunks":
                made[:70] = labels[:70]
    JetDataset([path], JetSelection())
    expected = [f"{path}: is_signal: {percent}% of it was never written and is read as zeros. Write the file again."]
    assert caplog.messages == (expected if percent else [])


def test_unknown_compression_is_named(tmp_path):
    """Breaks if the message calls a file damaged that another compression was used for."""
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["is_signal"] = np.zeros(3)
        momenta = file.create_dataset(
            "Pmu", (3, 2, 4), np.float32, chunks=(3, 2, 4), compression=32768, allow_unknown_filter=True
        )
        momenta.id.write_direct_chunk((0, 0, 0), b"compressed")
    with pytest.raises(
        InputError, match=r"cannot read Pmu \(it is compressed with '32768', which is not installed; comp"
    ):
        JetDataset([tmp_path / "train.h5"], JetSelection())
