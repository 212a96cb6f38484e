"""Read jets from HDF5 files as packed batches.

Layout of a file (data/make_jets.py writes it): `Pmu` (N, M, 4) float32: E, px, py, pz [GeV], zero-padded; `Nobj` (N,);
the target under any key (targets.py); features of the particles, (N, M), each under its own key (scalars.py).
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from puffin.data.chunks import rows_at_once, warn_of_slow_chunks
from puffin.data.events import EventDataset, choose_events
from puffin.data.jet_blocks import MOMENTA, JetFile, JetSelection, log_empty, look_at
from puffin.data.jet_observables import observables_of_file
from puffin.data.packing import JetBatch, rows_of_events
from puffin.data.splits import files_by_name, log_splits
from puffin.data.targets import read_weights
from puffin.errors import InputError

log = logging.getLogger("puffin")

_ROWS_AT_ONCE = 4096  # rows per read when a file is loaded into memory: about this number
_ROWS_OF_CHUNK = 1024  # rows per read otherwise: about this number, in whole chunks of the file


class JetDataset(EventDataset):
    """The jets of several files, in file order; `dataset[[3, 1]]` is a packed JetBatch of two jets.

    Entries with zero energy are padding and are dropped. InputError for files that are missing or damaged or lack a
    requested key, for momenta that no particle has (momenta.py), and for features that are not finite. In memory a
    particle is one row: its momentum, then its features.
    """

    open_file = JetFile

    def __init__(self, files: Sequence[str | Path], selection: JetSelection):
        super().__init__(files, selection)
        sizes, chunk_rows, targets, weights = [], [], [], []
        for path in self.files:
            with JetFile(path) as file:
                sizes.append(file.check(selection))
                stored = (file.array(MOMENTA).chunks or (1,))[0]
                warn_of_slow_chunks(file.array(MOMENTA), str(path))
                chunk_rows.append(stored * max(1, _ROWS_OF_CHUNK // stored))
                target = selection.target
                if target is not None and (selection.target_needed or all(key in file for key in target.keys)):
                    targets.append(target.read(file, sizes[-1]))
                if selection.weights and (selection.weights_needed or selection.weights in file):
                    weights.append(read_weights(file, selection.weights, sizes[-1]))
                if not selection.in_memory:
                    log_empty(path, *look_at(file, sizes[-1], selection))
        if selection.weights and len(weights) < len(self.files):
            log.warning(
                f"{', '.join(map(str, self.files))}: key '{selection.weights}' of the event weights not found. "
                f"Unlike in training, the events are not weighted."
            )
            weights = []
        if selection.target is not None and len(targets) < len(self.files):
            self._check_unlabelled(len(targets))
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.chunk_rows = np.array(chunk_rows)
        self._first_chunk = np.concatenate([[0], np.cumsum(-(-np.array(sizes) // self.chunk_rows))])
        self.targets = torch.from_numpy(_joined(targets)) if targets else None
        self.weights = torch.from_numpy(np.concatenate(weights)) if weights else None
        self.observables: Tensor | None = None
        if selection.observables:
            found = [observables_of_file(path, columns=selection.columns) for path in self.files]
            self.observables = torch.from_numpy(np.concatenate(found))
        self.events = torch.arange(int(self.first[-1]))
        if targets:
            self._drop_events_without_target()
        self._memory: tuple[Tensor, Tensor] | None = None
        if selection.in_memory:
            try:
                self._memory = self._read_all()
            finally:
                self.close()

    def _check_unlabelled(self, labelled: int) -> None:
        """Warn that the jets have no targets; InputError if some of the files have them."""
        assert self.selection.target is not None
        files, keys = ", ".join(map(str, self.files)), ", ".join(self.selection.target.keys)
        if labelled:
            raise InputError(
                f"{files}: only {labelled} of the files have the key '{keys}'; use the others on their own"
            )
        log.warning(f"{files}: no key '{keys}', so these jets get predictions but no metrics")

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
        observables = None if self.observables is None else self.observables[rows]
        return JetBatch(particles[:, :4].contiguous(), lengths, target, scalars, index, weights, observables)

    def _chunks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the file of each row, and its chunk, numbered over all files."""
        file = np.searchsorted(self.first, rows, side="right") - 1
        return file, self._first_chunk[file] + (rows - self.first[file]) // self.chunk_rows[file]

    def _from_files(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Read particles and lengths of some rows; each chunk once, from its first to its last requested row."""
        needed, position = np.unique(rows.numpy(), return_inverse=True)
        files, chunks = self._chunks(needed)
        particles, counts = [np.zeros((0, self.selection.width), np.float32)], [np.zeros(0, np.int64)]
        for of_chunk in np.split(np.arange(len(needed)), np.flatnonzero(np.diff(chunks)) + 1):
            if len(of_chunk):
                file = files[of_chunk[0]]
                local = needed[of_chunk] - self.first[file]
                block = self._opened(file).read(slice(int(local[0]), int(local[-1]) + 1), self.selection)
                block = block.jets(local - local[0])
                particles.append(block.particles)
                counts.append(block.counts)
        ptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return _take(torch.from_numpy(np.concatenate(particles)), torch.from_numpy(ptr), torch.from_numpy(position))

    def _read_all(self) -> tuple[Tensor, Tensor]:
        """Read all jets: particles (N, 4 + S), and where each jet begins, (jets + 1,)."""
        particles = [np.zeros((0, self.selection.width), np.float32)]
        counts = [np.zeros(0, np.int64)]
        bar = tqdm(total=int(self.first[-1]), desc="loading", unit="jet", disable=None, leave=False)
        for f, path in enumerate(self.files):
            size, before = int(self.first[f + 1] - self.first[f]), len(counts)
            step = rows_at_once(self._opened(f).array(MOMENTA), _ROWS_AT_ONCE)
            for start in range(0, size, step):
                rows = slice(start, min(start + step, size))
                block = self._opened(f).read(rows, self.selection, look=start == 0)
                particles.append(block.particles)
                counts.append(block.counts)
                bar.update(len(block.counts))
            log_empty(path, sum(int((c == 0).sum()) for c in counts[before:]) / size, exact=True)
        bar.close()
        ptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return torch.from_numpy(np.concatenate(particles)), torch.from_numpy(ptr)


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
