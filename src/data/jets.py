"""Jets from HDF5 files, served as packed batches.

Layout of a file (data/make_jets.py writes it): `Pmu` (N, M, 4) float32, E, px, py, pz [GeV], zero-padded; `Nobj` (N,);
the target under any key, (N,) class numbers or (N, K) one-hot.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError, first_line
from .packing import JetBatch

log = logging.getLogger("puffin")

SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
MOMENTA = "Pmu"
_ROWS_AT_ONCE = 4096  # rows read together when a file is taken into memory
_ROWS_OF_CHUNK = 1024  # rows read together when a file is not: about as many, in whole chunks of the file


def find_split_files(datadir: str | Path, split: str) -> list[Path]:
    """HDF5 files of a folder whose name contains the split as a word (train_1.h5, top-val.hdf5, ...), sorted.

    InputError if the folder does not exist."""
    folder = Path(datadir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with train, valid and test files with --datadir")
    word = re.compile(rf"(?<![a-z])({'|'.join(SPLITS[split])})(?![a-z])")
    return sorted(p for p in folder.iterdir() if p.suffix in (".h5", ".hdf5") and word.search(p.stem.lower()))


@dataclass(frozen=True)
class JetSelection:
    """What to take from the files.

    target: key of the labels, or None; nobj: at most this many particles of each jet, in file order (-1: all);
    scale: factor on the momenta; in_memory: read everything at the start.
    """

    target: str | None = "is_signal"
    nobj: int = -1
    scale: float = 1.0
    in_memory: bool = True

    def __post_init__(self):
        if self.nobj == 0 or self.nobj < -1:
            raise InputError(f"--nobj: expected a positive number, or -1 for all particles, got {self.nobj}")


class JetDataset(Dataset):
    """The jets of several files, in file order; `dataset[list of numbers]` is a packed batch.

    Zero-energy entries are dropped.  InputError for files that are missing, damaged, or lack what is asked for, and
    for momenta that are not finite.
    """

    def __init__(self, files: Sequence[str | Path], selection: JetSelection):
        if not files:
            raise InputError("no data files given")
        self.files, self.selection = [Path(f) for f in files], selection
        self._handles: dict[int, h5py.File] = {}
        sizes, chunk_rows, targets = [], [], []
        for path in self.files:
            with _open(path) as file:
                sizes.append(_check(file, path, selection.target))
                stored = (file[MOMENTA].chunks or (1,))[0]
                chunk_rows.append(stored * max(1, _ROWS_OF_CHUNK // stored))
                if selection.target is not None:
                    targets.append(_labels(file[selection.target], path))
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.chunk_rows = np.array(chunk_rows)
        self._first_chunk = np.concatenate([[0], np.cumsum(-(-np.array(sizes) // self.chunk_rows))])
        self.targets = torch.from_numpy(np.concatenate(targets)) if targets else None
        self.events = torch.arange(int(self.first[-1]))  # file rows that are in use
        self._memory: tuple[Tensor, Tensor] | None = None
        if selection.in_memory:
            try:
                self._memory = self._read_all()
            finally:
                self.close()

    def __len__(self) -> int:
        return len(self.events)

    def restrict(self, events: Tensor) -> None:
        """Keep only these events (numbers within the current selection)."""
        self.events = self.events[events]

    def labels(self) -> Tensor | None:
        """Targets of the events in use."""
        return None if self.targets is None else self.targets[self.events]

    def chunk_of_events(self) -> Tensor | None:
        """Number of the chunk that holds each event in use: what to read together; None if all are in memory."""
        return None if self._memory is not None else torch.from_numpy(self._chunks(self.events.numpy())[1])

    def __getitems__(self, numbers: list[int]) -> JetBatch:
        index = torch.as_tensor(numbers, dtype=torch.long)
        rows = self.events[index]
        momenta, lengths = self._from_memory(rows) if self._memory is not None else self._from_files(rows)
        target = None if self.targets is None else self.targets[rows]
        return JetBatch(momenta, lengths, target, index=index)

    def __getitem__(self, number: int) -> JetBatch:
        return self.__getitems__([number])

    def __getstate__(self):
        return {**self.__dict__, "_handles": {}}  # each worker opens its own

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        for file in self._handles.values():
            file.close()
        self._handles.clear()

    def _from_memory(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _take(*self._memory, rows)

    def _chunks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """File and chunk (numbered over all files) of each row."""
        file = np.searchsorted(self.first, rows, side="right") - 1
        return file, self._first_chunk[file] + (rows - self.first[file]) // self.chunk_rows[file]

    def _from_files(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Each chunk that holds any of the rows is read once, from the first to the last of them."""
        needed, place = np.unique(rows.numpy(), return_inverse=True)
        files, chunks = self._chunks(needed)
        momenta, counts = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
        for mine in np.split(np.arange(len(needed)), np.flatnonzero(np.diff(chunks)) + 1):
            if len(mine):
                file, local = files[mine[0]], needed[mine] - self.first[files[mine[0]]]
                block = self._read(file, slice(local[0], local[-1] + 1))[local - local[0]]
                valid = block[:, :, 0] != 0
                momenta.append(block[valid])
                counts.append(valid.sum(1))
        ptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return _take(torch.from_numpy(np.concatenate(momenta)), torch.from_numpy(ptr), torch.from_numpy(place))

    def _read_all(self) -> tuple[Tensor, Tensor]:
        momenta, counts = [], []
        for f in range(len(self.files)):
            size = int(self.first[f + 1] - self.first[f])
            for start in range(0, size, _ROWS_AT_ONCE):
                block = self._read(f, slice(start, min(start + _ROWS_AT_ONCE, size)))
                valid = block[:, :, 0] != 0
                momenta.append(block[valid])
                counts.append(valid.sum(1))
        counts = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        ptr = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
        return torch.from_numpy(np.concatenate(momenta) if momenta else np.zeros((0, 4), np.float32)), ptr

    def _read(self, f: int, rows: slice) -> np.ndarray:
        """Momenta (rows, nobj, 4) float32 of file f, checked and scaled."""
        if f not in self._handles:
            self._handles[f] = _open(self.files[f])
        last = None if self.selection.nobj < 0 else self.selection.nobj
        try:
            block = self._handles[f][MOMENTA][rows, :last]
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.files[f]}: cannot read {MOMENTA} ({first_line(error)}); the file may be damaged") from error
        if not np.isfinite(block).all():
            bad = int(np.flatnonzero(~np.isfinite(block).all((1, 2)))[0])
            raise InputError(f"{self.files[f]}: {MOMENTA} of event {rows.start + bad} is not finite; mend or remove the event")
        return (block * self.selection.scale if self.selection.scale != 1 else block).astype(np.float32, copy=False)


def _take(momenta: Tensor, ptr: Tensor, jets: Tensor) -> tuple[Tensor, Tensor]:
    """Momenta (N, 4) and lengths (B,) of some jets, from the momenta of jets one after another; jet k begins at ptr[k]."""
    lengths = ptr[jets + 1] - ptr[jets]
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return momenta[torch.repeat_interleave(ptr[jets], lengths) + within], lengths


def choose_events(labels: Tensor | None, available: int, wanted: int, seed: int, name: str) -> Tensor:
    """Sorted numbers of a seeded subset of `wanted` events (-1: all), half of each class where labels are binary.

    Asking for more than there are takes all, with a warning."""
    if wanted < 0 or wanted >= available:
        if wanted > available:
            log.warning(f"{name}: {wanted} events asked for, {available} there; using all")
        return torch.arange(available)
    generator = torch.Generator().manual_seed(seed % 2**63)
    order = torch.randperm(available, generator=generator)
    if labels is not None and labels.dim() == 1 and set(labels.unique().tolist()) == {0, 1}:
        classes = [order[labels[order] == c] for c in (1, 0)]
        signal = min(max(wanted // 2, wanted - len(classes[1])), len(classes[0]))
        order = torch.cat([classes[0][:signal], classes[1][: wanted - signal]])
    return order[:wanted].sort().values


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({first_line(error)})") from error


def _check(file: h5py.File, path: Path, target: str | None) -> int:
    """Number of jets; InputError if a key is missing or has a wrong shape."""
    keys = ", ".join(sorted(file.keys())) or "none"
    if MOMENTA not in file:
        raise InputError(f"{path}: key '{MOMENTA}' not found (has: {keys})")
    shape = file[MOMENTA].shape
    if len(shape) != 3 or shape[2] != 4:
        raise InputError(f"{path}: {MOMENTA}: expected shape (jets, particles, 4), got {shape}")
    if shape[0] == 0:
        raise InputError(f"{path}: {MOMENTA}: expected at least one jet, got none")
    if target is not None:
        if target not in file:
            raise InputError(f"{path}: key '{target}' not found (has: {keys}); choose one with --target")
        if file[target].shape[:1] != shape[:1] or file[target].ndim > 2:
            raise InputError(
                f"{path}: {target}: expected ({shape[0]},) or ({shape[0]}, classes), one row for each jet, got {file[target].shape}"
            )
    return shape[0]


def _labels(data: h5py.Dataset, path: Path) -> np.ndarray:
    try:
        labels = data[()]
    except OSError as error:
        raise InputError(f"{path}: cannot read {data.name[1:]} ({first_line(error)}); the file may be damaged") from error
    if labels.ndim == 2:
        labels = labels.argmax(1) if labels.shape[1] > 1 else labels[:, 0]
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels) or (whole < 0).any():
        raise InputError(f"{path}: {data.name[1:]}: expected class numbers 0, 1, 2, ..., got other values; choose a key with --target")
    return whole


def open_splits(
    datadir: str | Path, selection: JetSelection, wanted: dict[str, int], seed: int, testfile: str = ""
) -> dict[str, JetDataset]:
    """Data sets of the splits named in `wanted` (split -> number of events, -1 for all) that have files.

    testfile replaces the test files of the folder, which then need not exist if nothing else is wanted."""
    datasets = {}
    for split, number in wanted.items():
        files = [Path(testfile)] if split == "test" and testfile else find_split_files(datadir, split)
        if files:
            dataset = JetDataset(files, selection)
            dataset.restrict(choose_events(dataset.labels(), len(dataset), number, seed, split))
            datasets[split] = dataset
    return datasets
