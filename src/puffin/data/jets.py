"""Jets from HDF5 files, served as packed batches.

Layout of a file (data/make_jets.py writes it): `Pmu` (N, M, 4) float32, E, px, py, pz [GeV], zero-padded; `Nobj` (N,);
the target under any key (targets.py); further numbers of each particle, (N, M), under keys of their own (scalars.py).
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

from puffin.data.events import EventDataset, choose_events
from puffin.data.hdf5 import open_hdf5
from puffin.data.packing import JetBatch, rows_of_events
from puffin.data.scalars import Scalar
from puffin.data.targets import ClassLabels, Momenta, read_weights
from puffin.errors import InputError, first_line

log = logging.getLogger("puffin")

SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
MOMENTA = "Pmu"
_ROWS_AT_ONCE = 4096  # rows read together when a file is taken into memory
_ROWS_OF_CHUNK = 1024  # rows read together when a file is not: about as many, in whole chunks of the file


def find_split_files(datadir: str | Path, split: str) -> list[Path]:
    """HDF5 files of a folder whose name contains the split as a word (train_1.h5, top-val.hdf5, ...), sorted.

    Hidden files are left out: what a killed writer leaves behind begins with a dot.
    InputError if the folder does not exist."""
    folder = Path(datadir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with train, valid and test files with --datadir")
    word = re.compile(rf"(?<![a-z])({'|'.join(SPLITS[split])})(?![a-z])")
    return sorted(
        p for p in folder.iterdir() if p.suffix in (".h5", ".hdf5") and p.name[0] != "." and word.search(p.stem.lower())
    )


@dataclass(frozen=True)
class JetSelection:
    """What to take from the files.

    target: what to learn of each jet, or None; nobj: at most this many particles of each jet, in file order (-1: all);
    scale: factor on the momenta; in_memory: read everything at the start; scalars: features of the particles;
    weights: key of the weights of the events, or ''; weights_needed: InputError where files lack it, else the events
    are not weighted.
    """

    target: ClassLabels | Momenta | None = ClassLabels()
    nobj: int = -1
    scale: float = 1.0
    in_memory: bool = True
    scalars: tuple[Scalar, ...] = ()
    weights: str = ""
    weights_needed: bool = True

    def __post_init__(self):
        if self.nobj == 0 or self.nobj < -1:
            raise InputError(f"--nobj: expected a positive number, or -1 for all particles, got {self.nobj}")


class JetDataset(EventDataset):
    """The jets of several files, in file order; `dataset[list of numbers]` is a packed batch.

    Zero-energy entries are dropped.  InputError for files that are missing, damaged, or lack what is asked for, and
    for momenta and features that are not finite.  Particles are kept as rows of momentum and features side by side.
    """

    open_file = staticmethod(open_hdf5)

    def __init__(self, files: Sequence[str | Path], selection: JetSelection):
        super().__init__(files, selection)
        sizes, chunk_rows, targets, weights = [], [], [], []
        for path in self.files:
            with open_hdf5(path) as file:
                sizes.append(_check(file, path, selection.scalars))
                stored = (file[MOMENTA].chunks or (1,))[0]
                chunk_rows.append(stored * max(1, _ROWS_OF_CHUNK // stored))
                if selection.target is not None:
                    targets.append(selection.target.read(file, path, sizes[-1]))
                if selection.weights and (selection.weights_needed or selection.weights in file):
                    weights.append(read_weights(file, path, selection.weights, sizes[-1]))
        if selection.weights and len(weights) < len(self.files):
            log.warning(
                f"{', '.join(map(str, self.files))}: key '{selection.weights}' of the weights not found; the events are not weighted, unlike in training"
            )
            weights = []
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.chunk_rows = np.array(chunk_rows)
        self._first_chunk = np.concatenate([[0], np.cumsum(-(-np.array(sizes) // self.chunk_rows))])
        self.targets = torch.from_numpy(_joined(targets)) if targets else None
        self.weights = torch.from_numpy(np.concatenate(weights)) if weights else None
        self.events = torch.arange(int(self.first[-1]))  # file rows that are in use
        if targets:
            self._leave_out_unknown()
        self._memory: tuple[Tensor, Tensor] | None = None
        if selection.in_memory:
            try:
                self._memory = self._read_all()
            finally:
                self.close()

    def _leave_out_unknown(self) -> None:
        known = torch.from_numpy(self.selection.target.known(self.targets.numpy()))
        if not known.any():
            raise InputError(f"{self.files[0]}: no event has a target: all momenta are zero; choose keys with --target")
        if not known.all():
            log.info(
                f"{', '.join(map(str, self.files))}: {int((~known).sum())} of {len(known)} events have no target (all zero), left out"
            )
            self.restrict(known.nonzero()[:, 0])

    def labels(self) -> Tensor | None:
        """Targets of the events in use."""
        return None if self.targets is None else self.targets[self.events]

    def chunk_of_events(self) -> Tensor | None:
        """Number of the chunk that holds each event in use: what to read together; None if all are in memory."""
        return None if self._memory is not None else torch.from_numpy(self._chunks(self.events.numpy())[1])

    def __getitems__(self, numbers: list[int]) -> JetBatch:
        index = torch.as_tensor(numbers, dtype=torch.long)
        rows = self.events[index]
        particles, lengths = _take(*self._memory, rows) if self._memory is not None else self._from_files(rows)
        target = None if self.targets is None else self.targets[rows]
        weights = None if self.weights is None else self.weights[rows]
        scalars = particles[:, 4:] if self.selection.scalars else None
        return JetBatch(particles[:, :4].contiguous(), lengths, target, scalars, index, weights)

    def _chunks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """File and chunk (numbered over all files) of each row."""
        file = np.searchsorted(self.first, rows, side="right") - 1
        return file, self._first_chunk[file] + (rows - self.first[file]) // self.chunk_rows[file]

    def _from_files(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Each chunk that holds any of the rows is read once, from the first to the last of them."""
        needed, place = np.unique(rows.numpy(), return_inverse=True)
        files, chunks = self._chunks(needed)
        particles, counts = [np.zeros((0, self._width), np.float32)], [np.zeros(0, np.int64)]
        for mine in np.split(np.arange(len(needed)), np.flatnonzero(np.diff(chunks)) + 1):
            if len(mine):
                file, local = files[mine[0]], needed[mine] - self.first[files[mine[0]]]
                block = self._read(file, slice(local[0], local[-1] + 1))[local - local[0]]
                valid = block[:, :, 0] != 0
                particles.append(block[valid])
                counts.append(valid.sum(1))
        ptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return _take(torch.from_numpy(np.concatenate(particles)), torch.from_numpy(ptr), torch.from_numpy(place))

    def _read_all(self) -> tuple[Tensor, Tensor]:
        particles, counts = [np.zeros((0, self._width), np.float32)], [np.zeros(0, np.int64)]
        for f in range(len(self.files)):
            size = int(self.first[f + 1] - self.first[f])
            for start in range(0, size, _ROWS_AT_ONCE):
                block = self._read(f, slice(start, min(start + _ROWS_AT_ONCE, size)))
                valid = block[:, :, 0] != 0
                particles.append(block[valid])
                counts.append(valid.sum(1))
        ptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return torch.from_numpy(np.concatenate(particles)), torch.from_numpy(ptr)

    @property
    def _width(self) -> int:
        """Columns of a particle."""
        return 4 + sum(s.width for s in self.selection.scalars)

    def _read(self, f: int, rows: slice) -> np.ndarray:
        """Scaled momenta and features (rows, nobj, 4 + S) float32 of file f, checked."""
        momenta = self._read_key(f, MOMENTA, rows)
        if self.selection.scale != 1:
            momenta = momenta * self.selection.scale
        features = [s.columns(self._read_key(f, s.key, rows)) for s in self.selection.scalars]
        return (
            np.concatenate([momenta, *features], -1, dtype=np.float32)
            if features
            else momenta.astype(np.float32, copy=False)
        )

    def _read_key(self, f: int, key: str, rows: slice) -> np.ndarray:
        last = None if self.selection.nobj < 0 else self.selection.nobj
        try:
            block = self._opened(f)[key][rows, :last]
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.files[f]}: cannot read {key} ({first_line(error)}); the file may be damaged"
            ) from error
        finite = np.isfinite(block)
        if not finite.all():
            bad = int(np.flatnonzero(~finite.reshape(len(block), -1).all(1))[0])
            raise InputError(
                f"{self.files[f]}: {key} of event {rows.start + bad} is not finite; mend or remove the event"
            )
        return block


def _joined(targets: list[np.ndarray]) -> np.ndarray:
    """Targets of several files; InputError if they have different numbers of momenta."""
    if len({t.shape[1:] for t in targets}) > 1:
        raise InputError(
            f"--target: expected alike in all files of a split, got {' and '.join(str(t.shape[1:]) for t in targets)}"
        )
    return np.concatenate(targets)


def _take(particles: Tensor, ptr: Tensor, jets: Tensor) -> tuple[Tensor, Tensor]:
    """Particles (N, ...) and lengths (B,) of some jets, from the particles of jets one after another; jet k begins at ptr[k]."""
    lengths = ptr[jets + 1] - ptr[jets]
    return particles[rows_of_events(ptr[jets], lengths)], lengths


def _check(file: h5py.File, path: Path, scalars: tuple[Scalar, ...]) -> int:
    """Number of jets; InputError if momenta or features are missing or have a wrong shape."""
    keys = ", ".join(sorted(file.keys())) or "none"
    if MOMENTA not in file:
        raise InputError(f"{path}: key '{MOMENTA}' not found (has: {keys})")
    shape = file[MOMENTA].shape
    if len(shape) != 3 or shape[2] != 4:
        raise InputError(f"{path}: {MOMENTA}: expected shape (jets, particles, 4), got {shape}")
    if shape[0] == 0:
        raise InputError(f"{path}: {MOMENTA}: expected at least one jet, got none")
    for key in (s.key for s in scalars):
        if key not in file:
            raise InputError(
                f"{path}: key '{key}' not found (has: {keys}); it is asked for by --dataset, --read-pid or --scalars-keys"
            )
        if file[key].shape != shape[:2]:
            raise InputError(
                f"{path}: {key}: expected {shape[:2]}, one number for each particle, got {file[key].shape}"
            )
    return shape[0]


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
