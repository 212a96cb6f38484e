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


def find_split_files(datadir: str | Path, split: str) -> list[Path]:
    """HDF5 files of a folder whose name contains the split as a word (train_1.h5, top-val.hdf5, ...), sorted.

    Hidden files are left out: what a killed writer leaves behind begins with a dot.
    InputError if the folder does not exist."""
    folder = Path(datadir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with train, valid and test files with --datadir")
    word = re.compile(rf"(?<![a-z])({'|'.join(SPLITS[split])})(?![a-z])")
    return sorted(p for p in folder.iterdir() if p.suffix in (".h5", ".hdf5") and p.name[0] != "." and word.search(p.stem.lower()))


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
        sizes, targets = [], []
        for path in self.files:
            with _open(path) as file:
                sizes.append(_check(file, path, selection.target))
                if selection.target is not None:
                    targets.append(_labels(file[selection.target], path))
        self.first = np.concatenate([[0], np.cumsum(sizes)])
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
        momenta, ptr = self._memory
        lengths = ptr[rows + 1] - ptr[rows]
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        return momenta[torch.repeat_interleave(ptr[rows], lengths) + within], lengths

    def _from_files(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        order = np.argsort(rows.numpy(), kind="stable")  # HDF5 reads ascending rows only
        ascending = rows.numpy()[order]
        parts: list[np.ndarray | None] = [None] * len(rows)
        file_of = np.searchsorted(self.first, ascending, side="right") - 1
        for f in np.unique(file_of):
            mine = np.flatnonzero(file_of == f)
            block = self._read(f, ascending[mine] - self.first[f])
            for k, jet in zip(mine, block):
                parts[order[k]] = jet[jet[:, 0] != 0]
        lengths = torch.tensor([len(jet) for jet in parts])
        return torch.from_numpy(np.concatenate(parts)), lengths

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

    def _read(self, f: int, rows) -> np.ndarray:
        """Momenta (rows, nobj, 4) float32 of file f, checked and scaled."""
        if f not in self._handles:
            self._handles[f] = _open(self.files[f])
        last = None if self.selection.nobj < 0 else self.selection.nobj
        if not isinstance(rows, slice):
            # h5py takes no repeated rows
            rows, back = np.unique(rows, return_inverse=True)
        try:
            block = self._handles[f][MOMENTA][rows, :last]
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.files[f]}: cannot read {MOMENTA} ({first_line(error)}); the file may be damaged") from error
        if not isinstance(rows, slice):
            block = block[back]
        if not np.isfinite(block).all():
            bad = int(np.flatnonzero(~np.isfinite(block).all((1, 2)))[0])
            number = rows.start + bad if isinstance(rows, slice) else rows[back[bad]]
            raise InputError(f"{self.files[f]}: {MOMENTA} of event {number} is not finite; mend or remove the event")
        return (block * self.selection.scale if self.selection.scale != 1 else block).astype(np.float32, copy=False)


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
