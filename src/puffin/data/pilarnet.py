"""LArTPC events of PILArNet-M, prepared and served as packed batches.  Source: arXiv 2502.02558, sec. 3 and app. A.

Files: src/puffin/data/pilarnet_files.py.  An event is prepared in this order: without cluster 0 where that holds the low-energy
deposits (LED); points above the energy threshold; energy to [-1, 1] by a logarithm; coordinates to the unit ball.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from puffin.data.events import EventDataset, choose_events
from puffin.data.packing import CloudBatch
from puffin.data.parallel import ordered_map
from puffin.data.pilarnet_files import (
    LED,
    SIZE,
    WIDTHS,
    BadEvent,
    EventFile,
    hdf5_files,
    index_path,
    known_counts,
    make_index,
)
from puffin.errors import InputError

log = logging.getLogger("puffin")

SPLITS = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}
CLASS_NAMES = ("shower", "track", "michel", "delta", "led")
CLASS_COUNTS = (1926651899, 2038240940, 34083197, 92015482, 1145363125)  # points of the training set of PILArNet-M


@dataclass(frozen=True)
class CloudSelection:
    """Which events and points to take, and how to scale them.

    remove_led: without cluster 0; energy_threshold [MeV]: points at or below it are dropped; emin, emax [MeV]: become -1 and
    +1.  emin None: the threshold where it is above 0 (as in the published code, which has no way to choose otherwise), else 0.01.
    min_points: of an event, LED included, before any cut.  clusters: give the clusters and PID of the points too, which
    neither pretraining nor semantic segmentation needs, and which cost a worker a third of its speed.
    skip_bad: leave bad events out and count them.  rows: tell which points of the file those of an event are.
    strict_led: an event with LED outside of cluster 0, which remove_led leaves in as published, is bad.
    """

    remove_led: bool = True
    energy_threshold: float = 0.13
    emin: float | None = None
    emax: float = 20.0
    min_points: int = 1024
    clusters: bool = True
    skip_bad: bool = False
    rows: bool = False
    strict_led: bool = False

    def __post_init__(self):
        if self.energy_threshold < 0:
            raise InputError(f"--energy-threshold: expected 0 or more MeV, got {self.energy_threshold}")
        if not 0 < self.eps < self.emax:
            flag = "--energy-threshold" if self.emin is None else "--emin"
            raise InputError(
                f"{flag}: expected more than 0 and less than {self.emax:g} MeV, which becomes +1, got {self.eps}"
            )

    @property
    def eps(self) -> float:
        """The energy [MeV] that normalize_energy takes to about -1."""
        if self.emin is not None:
            return self.emin
        return self.energy_threshold if self.energy_threshold > 0 else 0.01


def normalize_energy(energy, eps: float, emax: float):
    """2 (log10(e + eps) - log10 eps) / (log10(emax + eps) - log10 eps) - 1, of an array or tensor of energies [MeV]."""
    log10 = torch.log10 if isinstance(energy, Tensor) else np.log10
    return 2 * (log10(energy + eps) - math.log10(eps)) / (math.log10(emax + eps) - math.log10(eps)) - 1


def energy_of(x, eps: float, emax: float):
    """The energies [MeV] that `normalize_energy` takes to x."""
    return eps * (1 + emax / eps) ** ((x + 1) / 2) - eps


def normalize_coordinates(coordinates):
    """(x - 384) / (384 sqrt 3): the detector's cube just fits into the unit ball, however it is rotated."""
    return (coordinates - SIZE / 2) / (SIZE * math.sqrt(3) / 2)


def find_split_files(datadir: str | Path, split: str) -> list[Path]:
    """HDF5 files in the split's folder (train/, val/ or valid/, test/), sorted; InputError for a missing or empty data folder."""
    folder = Path(datadir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with train/, val/ and test/ with --datadir")
    found = [p for name in SPLITS[split] for p in hdf5_files(folder / name, "*")]
    if not found and not hdf5_files(folder, "*/*"):
        raise InputError(
            f"{folder}: expected .h5 files in train/, val/ or test/, found none; give another folder with --datadir"
        )
    return sorted(found)


class CloudDataset(EventDataset):
    """The events of several files with enough points, in file order; `dataset[list of numbers]` is a packed batch.

    Files without an index of their own get one first (in `jobs` processes).  InputError for files that are missing, damaged or of
    different versions, and BadEvent for events that cannot be used, unless the selection skips them: an unreadable file
    and events that are bad in the index are then counted in `skipped`, others in `CloudBatch.skipped` as they are met.
    """

    open_file = EventFile

    def __init__(self, files: Sequence[str | Path], selection: CloudSelection, jobs: int = 1):
        super().__init__(files, selection)
        self.skipped = 0
        self.files, versions = self._usable(self.files)
        if len(set(versions)) != 1:
            first = {version: path.name for path, version in reversed(list(zip(self.files, versions, strict=False)))}
            found = ", ".join(f"{version} ({name})" for version, name in sorted(first.items()))
            raise InputError(f"expected files of one version of PILArNet-M, got {found}")
        self.version = versions[0]
        counts = self._counts(jobs)
        self.first = np.concatenate([[0], np.cumsum([len(c) for c in counts])])
        self.points = torch.from_numpy(np.concatenate(counts))  # of every event of the files, -1 if bad
        self.events = torch.nonzero(self.points >= max(selection.min_points, 0)).flatten()
        self.too_small = int((self.points >= 0).sum()) - len(self.events)
        if self.skipped:
            log.warning(f"{self.skipped} files or events cannot be read; skipped")
        if len(self.events) == 0:
            raise InputError(
                f"{self.files[0].parent}: none of {len(self.points)} events has {selection.min_points} points; see --min-points"
            )

    def chunk_of_events(self) -> None:
        """No chunks: any event can be read at any time (see EpochBatches)."""

    def __getitems__(self, numbers: list[int]) -> CloudBatch:
        """A batch in the order asked for; bad events are missing from it where they are skipped, so it may be empty."""
        points, clusters, index = [], [], []
        for number in numbers:
            try:
                p, c = self._read(int(self.events[number]))
            except BadEvent:
                if not self.selection.skip_bad:
                    raise
                continue
            points.append(p)
            clusters.append(c)
            index.append(number)
        return self._pack(points, clusters, index, len(numbers) - len(index))

    def _usable(self, files: list[Path]) -> tuple[list[Path], list[str]]:
        kept, versions = [], []
        for path in files:
            try:
                with EventFile(path) as file:
                    kept.append(path)
                    versions.append(file.version)
            except InputError as error:
                if not self.selection.skip_bad:
                    raise
                log.warning(f"skipped: {error}")
                self.skipped += 1
        if not kept:
            raise InputError(f"{files[0].parent}: none of {len(files)} files can be read")
        return kept, versions

    def _counts(self, jobs: int) -> list[np.ndarray]:
        """Points of each event of each file, by the indices; those that are missing, or of other files, are made."""
        counts = {}
        for path in self.files:
            with EventFile(path) as file:
                counts[path] = known_counts(file)
        missing = [path for path, known in counts.items() if known is None]
        wrong = [index_path(path) for path in missing if index_path(path).exists()]
        if wrong:
            log.warning(
                f"{len(wrong)} indices are not of the files beside them ({wrong[0]}); making them anew, as data/index_pilarnet.py --force would"
            )
        if missing:
            log.info(f"indexing {len(missing)} files (once; data/index_pilarnet.py -j does this with more processes)")
            work = ordered_map(partial(make_index, skip_bad=self.selection.skip_bad), missing, min(jobs, len(missing)))
            counts |= dict(
                zip(missing, tqdm(work, total=len(missing), desc="index", unit="file", disable=None), strict=False)
            )
        for path in self.files:
            bad = np.flatnonzero(counts[path] < 0)
            if len(bad) and not self.selection.skip_bad:
                raise BadEvent(
                    f"{path}: event {bad[0]}: marked as bad in {index_path(path).name}; leave such events out with --skip-bad"
                )
            self.skipped += len(bad)
        return [counts[path] for path in self.files]

    def places(self, numbers: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """File (its place in `files`) and row there of events (B,) int64 of the current selection."""
        return self._place(self.events[numbers].numpy())

    def _place(self, event):
        file = np.searchsorted(self.first, event, side="right") - 1
        return file, event - self.first[file]

    def _read(self, event: int) -> tuple[np.ndarray, np.ndarray]:
        f, row = map(int, self._place(event))
        points, clusters = self._opened(f).read(row)
        if len(points) != self.points[event]:
            raise BadEvent(
                f"{index_path(self.files[f])}: expected {len(points)} points for event {row}, got {self.points[event]}; "
                f"the index is of another file: make it again with data/index_pilarnet.py --force"
            )
        if self.selection.strict_led and self.selection.remove_led and clusters[1:][clusters[1:, 4] == LED, 0].any():
            raise BadEvent(
                f"{self.files[f]}: event {row}: expected low-energy deposits in cluster 0 alone, as a network without a class for "
                f"them needs, got some in others; leave such events out with --skip-bad, or train with --no-remove-led"
            )
        return points, clusters

    def _pack(self, points: list[np.ndarray], clusters: list[np.ndarray], index: list[int], skipped: int) -> CloudBatch:
        width = WIDTHS[self.version]
        rows = np.concatenate([np.zeros((0, 4), np.float32), *points], dtype=np.float32)
        table = np.concatenate([np.zeros((0, width), np.int64), *clusters], dtype=np.int64)
        kept = rows[:, 3] > self.selection.energy_threshold
        if self.selection.remove_led:
            first = np.cumsum([0] + [len(c) for c in clusters])[:-1][[len(c) > 0 for c in clusters]]
            is_led = np.zeros(len(table), bool)
            is_led[first] = table[first, 4] == LED
            kept &= ~np.repeat(is_led, table[:, 0])
        kept_before = np.concatenate([[0], np.cumsum(kept)])
        of_cluster = np.diff(kept_before[np.cumsum([0, *table[:, 0]])])
        begin = np.cumsum([0, *map(len, points)])
        of_event = np.diff(kept_before[begin])
        places = np.flatnonzero(kept) - np.repeat(begin[:-1], of_event) if self.selection.rows else None
        rows = rows[kept]
        rows[:, :3] = normalize_coordinates(rows[:, :3])
        rows[:, 3] = normalize_energy(rows[:, 3], self.selection.eps, self.selection.emax)
        names = ("fragment", "group", "interaction", "semantic", "pid")[: width - 1]
        columns = list(range(1, width)) if self.selection.clusters else [4]
        ids = np.repeat(table[:, columns].T, of_cluster, axis=1)
        return CloudBatch(
            points=torch.from_numpy(rows),
            lengths=torch.from_numpy(of_event),
            row=None if places is None else torch.from_numpy(places),
            index=torch.tensor(index, dtype=torch.int64),
            skipped=skipped,
            **{names[column - 1]: torch.from_numpy(row) for column, row in zip(columns, ids, strict=False)},
        )


def open_splits(
    datadir: str | Path, selection: CloudSelection, wanted: dict[str, int], seed: int, jobs: int = 1
) -> dict[str, CloudDataset]:
    """Data sets of the splits named in `wanted` (split -> number of events, -1 for all) that have files."""
    datasets = {}
    for split, number in wanted.items():
        files = find_split_files(datadir, split)
        if files:
            dataset = CloudDataset(files, selection, jobs)
            dataset.restrict(choose_events(None, len(dataset), number, seed, split))
            datasets[split] = dataset
    return datasets
