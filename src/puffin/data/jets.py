"""Read jets from HDF5 files as packed batches.

Layout of a file (data/make_jets.py writes it): `Pmu` (N, M, 4) float32: E, px, py, pz [GeV], zero-padded; `Nobj` (N,);
the target under any key (targets.py); features of the particles, (N, M), each under its own key (scalars.py).
"""

import logging
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
from puffin.data.splits import files_by_name, log_splits
from puffin.data.targets import ClassLabels, Momenta, read_weights
from puffin.errors import InputError, first_line

log = logging.getLogger("puffin")

MOMENTA = "Pmu"
_ROWS_AT_ONCE = 4096  # rows per read when a file is loaded into memory
_ROWS_OF_CHUNK = 1024  # rows per read otherwise: about this number, in whole chunks of the file


@dataclass(frozen=True)
class JetSelection:
    """What to read from the files.

    target: what to predict for each jet, or None; nobj: maximum number of particles per jet, in file order (-1: all);
    scale: factor on the momenta; in_memory: read everything at the start; scalars: features of the particles; weights:
    key of the event weights, or ''; weights_needed: whether a file without that key is an InputError; if not, the
    events get no weights, with a warning.
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
    """The jets of several files, in file order; `dataset[[3, 1]]` is a packed JetBatch of two jets.

    Entries with zero energy are padding and are dropped. InputError for files that are missing or damaged or lack a
    requested key, and for momenta and features that are not finite. In memory a particle is one row: its momentum,
    then its features.
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
                f"{', '.join(map(str, self.files))}: key '{selection.weights}' of the event weights not found. "
                f"Unlike in training, the events are not weighted."
            )
            weights = []
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.chunk_rows = np.array(chunk_rows)
        self._first_chunk = np.concatenate([[0], np.cumsum(-(-np.array(sizes) // self.chunk_rows))])
        self.targets = torch.from_numpy(_joined(targets)) if targets else None
        self.weights = torch.from_numpy(np.concatenate(weights)) if weights else None
        self.events = torch.arange(int(self.first[-1]))
        if targets:
            self._drop_events_without_target()
        self._memory: tuple[Tensor, Tensor] | None = None
        if selection.in_memory:
            try:
                self._memory = self._read_all()
            finally:
                self.close()

    def _drop_events_without_target(self) -> None:
        known = torch.from_numpy(self.selection.target.known(self.targets.numpy()))
        if not known.any():
            raise InputError(
                f"{self.files[0]}: no event has a target: all momenta are zero. Choose other keys with --target."
            )
        if not known.all():
            log.info(
                f"{', '.join(map(str, self.files))}: {int((~known).sum())} of {len(known)} events have no target "
                f"(all zero); dropping them"
            )
            self.restrict(known.nonzero()[:, 0])

    def labels(self) -> Tensor | None:
        """Return the targets of the selected events, or None."""
        return None if self.targets is None else self.targets[self.events]

    def chunk_of_events(self) -> Tensor | None:
        """Return the number of the file chunk that holds each selected event; None if the jets are in memory."""
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
        """Return the file of each row, and its chunk, numbered over all files."""
        file = np.searchsorted(self.first, rows, side="right") - 1
        return file, self._first_chunk[file] + (rows - self.first[file]) // self.chunk_rows[file]

    def _from_files(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Read particles and lengths of some rows; each chunk once, from its first to its last requested row."""
        needed, position = np.unique(rows.numpy(), return_inverse=True)
        files, chunks = self._chunks(needed)
        particles, counts = [np.zeros((0, self._width), np.float32)], [np.zeros(0, np.int64)]
        for of_chunk in np.split(np.arange(len(needed)), np.flatnonzero(np.diff(chunks)) + 1):
            if len(of_chunk):
                file = files[of_chunk[0]]
                local = needed[of_chunk] - self.first[file]
                block = self._read(file, slice(local[0], local[-1] + 1))[local - local[0]]
                valid = block[:, :, 0] != 0
                particles.append(block[valid])
                counts.append(valid.sum(1))
        ptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return _take(torch.from_numpy(np.concatenate(particles)), torch.from_numpy(ptr), torch.from_numpy(position))

    def _read_all(self) -> tuple[Tensor, Tensor]:
        """Read all jets: particles (N, 4 + S), and where each jet begins, (jets + 1,)."""
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
        """Number of columns of a particle."""
        return 4 + sum(s.width for s in self.selection.scalars)

    def _read(self, f: int, rows: slice) -> np.ndarray:
        """Read scaled momenta and features (rows, nobj, 4 + S) float32 of file f; InputError if any is not finite."""
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
                f"{self.files[f]}: cannot read {key} ({first_line(error)}). The file may be damaged."
            ) from error
        finite = np.isfinite(block)
        if not finite.all():
            bad = rows.start + int(np.flatnonzero(~finite.reshape(len(block), -1).all(1))[0])
            raise InputError(f"{self.files[f]}: {key} of event {bad} is not finite. Correct or remove the event.")
        return block


def _joined(targets: list[np.ndarray]) -> np.ndarray:
    """Join the targets of several files; InputError if they have different numbers of momenta."""
    if len({t.shape[1:] for t in targets}) > 1:
        raise InputError(
            f"--target: the files of a split have different numbers of momenta per jet "
            f"({' and '.join(str(t.shape[1:]) for t in targets)}). Choose keys that all files have in the same shape."
        )
    return np.concatenate(targets)


def _take(particles: Tensor, ptr: Tensor, jets: Tensor) -> tuple[Tensor, Tensor]:
    """Select some jets (B,) from packed particles, where jet k begins at ptr[k]: particles (N, ...), lengths (B,)."""
    lengths = ptr[jets + 1] - ptr[jets]
    return particles[rows_of_events(ptr[jets], lengths)], lengths


def _check(file: h5py.File, path: Path, scalars: tuple[Scalar, ...]) -> int:
    """Return the number of jets; InputError if momenta or features are missing or have a wrong shape."""
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
                f"{path}: key '{key}' not found (has: {keys}). "
                f"It is required by --dataset, --read-pid or --scalars-keys."
            )
        if file[key].shape != shape[:2]:
            raise InputError(
                f"{path}: {key}: expected {shape[:2]}, one number for each particle, got {file[key].shape}"
            )
    return shape[0]


def open_splits(
    datadir: str | Path, selection: JetSelection, wanted: dict[str, int], seed: int, testfile: str = ""
) -> dict[str, JetDataset]:
    """Open the data sets of the splits in `wanted` (split -> number of events, -1 for all) that have files.

    testfile replaces the test files of the folder; the folder need not exist if only the test split is wanted. The seed
    chooses the events."""
    files = {} if testfile and set(wanted) == {"test"} else files_by_name(datadir)
    if testfile:
        files["test"] = [Path(testfile)]
    log_splits(files, wanted)
    datasets = {}
    for split, number in wanted.items():
        if files[split]:
            dataset = JetDataset(files[split], selection)
            dataset.restrict(choose_events(dataset.labels(), len(dataset), number, seed, split))
            datasets[split] = dataset
    return datasets
