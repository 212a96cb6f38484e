"""Read LArTPC events of PILArNet-M as packed batches.  Source: arXiv 2502.02558, sec. 3 and app. A.

Files: src/puffin/data/pilarnet_files.py. An event is prepared in this order: remove cluster 0 if it holds the
low-energy deposits (LED); keep the points above the energy threshold; scale the energy logarithmically to [-1, 1];
scale the coordinates to the unit ball.
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
    WIDTHS,
    BadEvent,
    EventFile,
    index_path,
    known_counts,
    make_index,
)
from puffin.data.splits import files_by_folder, log_splits
from puffin.detector import PILARNET
from puffin.errors import InputError, plural

log = logging.getLogger("puffin")

_SEMANTIC = 4  # column of clusters


@dataclass(frozen=True)
class CloudSelection:
    """Which events and points to read, and how to scale the energies.

    remove_led: remove cluster 0 if it holds the low-energy deposits; energy_threshold [MeV]: points at or below it are
    dropped; emin, emax [MeV]: energies that become -1 and +1. If emin is None, it is the threshold if that is above 0
    (the only choice of the published code), else 0.01. min_points: minimum number of points per event, before any
    cuts, LED included; skip_bad: drop bad events and count them; rows: return the numbers of the points within their
    events of the file; strict_led: treat an event with LED outside of cluster 0 as bad, as remove_led keeps those;
    on_lattice: treat an event with coordinates that are not whole voxels as bad; save_index: write missing indices next
    to the files.
    """

    remove_led: bool = True
    energy_threshold: float = 0.13
    emin: float | None = None
    emax: float = 20.0
    min_points: int = 1024
    skip_bad: bool = False
    rows: bool = False
    strict_led: bool = False
    on_lattice: bool = False
    save_index: bool = True

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
        """The energy [MeV] that normalize_energy maps to about -1."""
        if self.emin is not None:
            return self.emin
        return self.energy_threshold if self.energy_threshold > 0 else 0.01


def normalize_energy(energy, eps: float, emax: float):
    """Scale energies [MeV], an array or a tensor: 0 becomes -1 and emax becomes +1.

    2 (log10(e + eps) - log10 eps) / (log10(emax + eps) - log10 eps) - 1"""
    log10 = torch.log10 if isinstance(energy, Tensor) else np.log10
    return 2 * (log10(energy + eps) - math.log10(eps)) / (math.log10(emax + eps) - math.log10(eps)) - 1


def energy_of(x, eps: float, emax: float):
    """Return the energies [MeV] that `normalize_energy` maps to x."""
    return eps * (1 + emax / eps) ** ((x + 1) / 2) - eps


def normalize_coordinates(coordinates):
    """Scale coordinates [voxel] so that the detector's cube just fits into the unit ball, however it is rotated."""
    return (coordinates - PILARNET.centre) / PILARNET.half_diagonal


class CloudDataset(EventDataset):
    """The events of several files with enough points, in file order; `dataset[[3, 1]]` is a packed CloudBatch.

    Files without an index get one first (in `jobs` processes). InputError for files that are missing, damaged or of
    different versions; BadEvent for events that cannot be used. If the selection skips bad events, `skipped` counts the
    unreadable files and the events that are marked as bad in an index, and `CloudBatch.skipped` counts those that are
    found bad when they are read. `too_small` counts the events with fewer than min_points points.
    """

    open_file = EventFile

    def __init__(self, files: Sequence[str | Path], selection: CloudSelection, jobs: int = 1):
        super().__init__(files, selection)
        self.skipped = 0
        self.files, versions = self._readable(self.files)
        if len(set(versions)) != 1:
            first = {version: path.name for path, version in reversed(list(zip(self.files, versions, strict=True)))}
            found = ", ".join(f"{version} ({name})" for version, name in sorted(first.items()))
            raise InputError(f"expected files of one version of PILArNet-M, got {found}")
        self.version = versions[0]
        counts = self._counts(jobs)
        self.first = np.concatenate([[0], np.cumsum([len(c) for c in counts])])
        self.points = torch.from_numpy(np.concatenate(counts))  # of every event of the files, -1 if bad
        self.events = torch.nonzero(self.points >= max(selection.min_points, 0)).flatten()
        self.too_small = int((self.points >= 0).sum()) - len(self.events)
        if self.skipped:
            log.warning(f"skipped files or events that cannot be read: {self.skipped}")
        if len(self.events) == 0:
            raise InputError(
                f"{self.files[0].parent}: none of {len(self.points)} events has {selection.min_points} points; "
                f"see --min-points"
            )

    def chunk_of_events(self) -> None:
        """Return None, as events of any order can be read equally fast (see EpochBatches)."""

    def __getitems__(self, numbers: list[int]) -> CloudBatch:
        """Read a batch in the given order; with skip_bad, bad events are missing from it, and it may be empty."""
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

    def _readable(self, files: list[Path]) -> tuple[list[Path], list[str]]:
        """Return the readable files and their versions; with skip_bad the others are skipped with a warning."""
        readable, versions = [], []
        for path in files:
            try:
                with EventFile(path) as file:
                    readable.append(path)
                    versions.append(file.version)
            except InputError as error:
                if not self.selection.skip_bad:
                    raise
                log.warning(f"skipped: {error}")
                self.skipped += 1
        if not readable:
            raise InputError(f"{files[0].parent}: none of {len(files)} files can be read")
        return readable, versions

    def _counts(self, jobs: int) -> list[np.ndarray]:
        """Return the points of each event of each file; an index that is missing or does not match is rebuilt."""
        counts = {}
        for path in self.files:
            with EventFile(path) as file:
                counts[path] = known_counts(file)
        missing = [path for path, known in counts.items() if known is None]
        wrong = [index_path(path) for path in missing if index_path(path).exists()]
        if wrong:
            log.warning(
                f"{len(wrong)} indices do not match the files next to them ({wrong[0]}); rebuilding them, "
                f"like data/index_pilarnet.py --force"
            )
        if missing:
            number = plural(len(missing), "file")
            log.info(f"indexing {number} (once; data/index_pilarnet.py -j does this with more processes)")
            make = partial(make_index, skip_bad=self.selection.skip_bad, save=self.selection.save_index)
            work = ordered_map(make, missing, min(jobs, len(missing)))
            progress = tqdm(work, total=len(missing), desc="index", unit="file", disable=None)
            counts |= dict(zip(missing, progress, strict=True))
        for path in self.files:
            bad = np.flatnonzero(counts[path] < 0)
            if len(bad) and not self.selection.skip_bad:
                raise BadEvent(
                    f"{path}: event {bad[0]}: marked as bad in {index_path(path).name}. "
                    f"Drop such events with --skip-bad."
                )
            self.skipped += len(bad)
        return [counts[path] for path in self.files]

    def places(self, numbers: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the file (its position in `files`) and the row there of selected events (B,) int64."""
        return self._place(self.events[numbers].numpy())

    def _place(self, event):
        file = np.searchsorted(self.first, event, side="right") - 1
        return file, event - self.first[file]

    def _read(self, event: int) -> tuple[np.ndarray, np.ndarray]:
        """Read an event; BadEvent if its index or its low-energy deposits are wrong."""
        f, row = map(int, self._place(event))
        points, clusters = self._opened(f).read(row)
        if len(points) != self.points[event]:
            raise BadEvent(
                f"{index_path(self.files[f])}: expected {len(points)} points for event {row}, "
                f"got {self.points[event]}. The index does not match the file: rebuild it with "
                f"data/index_pilarnet.py --force."
            )
        if self.selection.strict_led and self.selection.remove_led:
            is_led = clusters[1:, _SEMANTIC] == PILARNET.low_energy_deposits
            if clusters[1:][is_led, 0].any():
                raise BadEvent(
                    f"{self.files[f]}: event {row}: expected low-energy deposits in cluster 0 alone, found some in "
                    f"others, and the network has no class for them. Drop such events with --skip-bad, or train with "
                    f"--no-remove-led."
                )
        if self.selection.on_lattice:
            off = (points[:, :3] != np.rint(points[:, :3])).any(1).nonzero()[0]
            if len(off):
                raise BadEvent(
                    f"{self.files[f]}: event {row}: expected whole numbers as coordinates, in voxels of "
                    f"{10 * PILARNET.voxel_cm:g} mm, got {points[off[0], :3].tolist()} for point {off[0]}. "
                    f"Drop such events with --skip-bad, or use --backbone transformer."
                )
        return points, clusters

    def _pack(self, points: list[np.ndarray], clusters: list[np.ndarray], index: list[int], skipped: int) -> CloudBatch:
        """Prepare and pack events: points (N, 4) and clusters (M, 5 or 6) of each."""
        rows = np.concatenate([np.zeros((0, 4), np.float32), *points], dtype=np.float32)
        table = np.concatenate([np.zeros((0, WIDTHS[self.version]), np.int64), *clusters], dtype=np.int64)
        selected = rows[:, 3] > self.selection.energy_threshold
        if self.selection.remove_led:
            first = np.cumsum([0] + [len(c) for c in clusters])[:-1][[len(c) > 0 for c in clusters]]
            is_led = np.zeros(len(table), bool)
            is_led[first] = table[first, _SEMANTIC] == PILARNET.low_energy_deposits
            selected &= ~np.repeat(is_led, table[:, 0])
        selected_before = np.concatenate([[0], np.cumsum(selected)])
        of_cluster = np.diff(selected_before[np.cumsum([0, *table[:, 0]])])
        begin = np.cumsum([0, *map(len, points)])
        of_event = np.diff(selected_before[begin])
        row_numbers = np.flatnonzero(selected) - np.repeat(begin[:-1], of_event) if self.selection.rows else None
        rows = rows[selected]
        rows[:, :3] = normalize_coordinates(rows[:, :3])
        rows[:, 3] = normalize_energy(rows[:, 3], self.selection.eps, self.selection.emax)
        return CloudBatch(
            points=torch.from_numpy(rows),
            lengths=torch.from_numpy(of_event),
            semantic=torch.from_numpy(np.repeat(table[:, _SEMANTIC], of_cluster)),
            row=None if row_numbers is None else torch.from_numpy(row_numbers),
            index=torch.tensor(index, dtype=torch.int64),
            skipped=skipped,
        )


def open_splits(
    datadir: str | Path, selection: CloudSelection, wanted: dict[str, int], seed: int, jobs: int = 1
) -> dict[str, CloudDataset]:
    """Open the data sets of the splits in `wanted` (split -> number of events, -1 for all) that have files.

    The seed chooses the events; jobs: processes that build missing indices."""
    datasets, files = {}, files_by_folder(datadir)
    log_splits(files, (split for split in wanted if files[split] or split != "test"))  # the run says what it tests
    for split, number in wanted.items():
        if files[split]:
            dataset = CloudDataset(files[split], selection, jobs)
            dataset.restrict(choose_events(None, len(dataset), number, seed, split))
            datasets[split] = dataset
    return datasets
