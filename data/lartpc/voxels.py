"""Convert deposits along lines to voxels, and fragments to the clusters of PILArNet-M."""

from dataclasses import dataclass

import numpy as np

from lartpc.particles import DELTA, MICHEL, SHOWER, TRACK, Table
from lartpc.tracks import SIZE, VOXEL

FAINTEST = 0.01  # MeV; voxels with less are not recorded
# a fragment with fewer voxels joins a fragment that it touches; if it touches none, it becomes low-energy deposits
SMALLEST = {SHOWER: 10, TRACK: 3, MICHEL: 3, DELTA: 7}
_NEIGHBOURS = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])


@dataclass
class Voxels(Table):
    """Voxels of many events; each voxel of an event has at most one row.

    event (N,); cell (N, 3) int; energy (N,) [MeV]; time (N,) [ns] of the first deposit; length (N,) [cm] of the
    tracks in it; fragment (N,)."""

    event: np.ndarray
    cell: np.ndarray
    energy: np.ndarray
    time: np.ndarray
    length: np.ndarray
    fragment: np.ndarray


def split_at_walls(segments):
    """Split N segments of at most a voxel at the voxel walls.

    Each has four pieces: cells (4 N, 3), fractions of the energy (4 N,)."""
    start, end = segments.start / VOXEL, segments.end / VOXEL
    first, last = np.floor(start), np.floor(end)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = (np.maximum(first, last) - start) / (end - start)  # position of each wall along the segment
    crossing = np.where(first != last, crossing, 1.0).clip(0, 1)
    cuts = np.concatenate([np.zeros((len(start), 1)), np.sort(crossing, 1), np.ones((len(start), 1))], 1)
    shares = np.diff(cuts, axis=1)
    middle = (cuts[:, 1:] + cuts[:, :-1]) / 2
    cells = np.floor(start[:, None] + middle[:, :, None] * (end - start)[:, None]).astype(np.int64)
    return cells.reshape(-1, 3), shares.reshape(-1)


def fill(segments, event_of_fragment):
    """Make the voxels of all segments; a voxel belongs to the fragment that deposited most of its energy."""
    cells, shares = split_at_walls(segments)
    owner = np.repeat(np.arange(len(segments)), 4)
    keep = (shares > 0) & ((cells >= 0) & (cells < SIZE)).all(1)
    # a segment of length 0 (a particle that stops) is one piece: all other fractions are 0
    cells, shares, owner = cells[keep], shares[keep], owner[keep]
    fragment = segments.fragment[owner]
    energy, length, time = segments.energy[owner] * shares, segments.length[owner] * shares, segments.time[owner]
    key = _key(event_of_fragment[fragment], cells)

    order = np.lexsort((fragment, key))
    key, fragment = key[order], fragment[order]
    begins = np.flatnonzero(np.r_[True, (key[1:] != key[:-1]) | (fragment[1:] != fragment[:-1])])
    parts = np.add.reduceat(energy[order], begins)  # energy of one fragment in one voxel
    lengths, times = np.add.reduceat(length[order], begins), np.minimum.reduceat(time[order], begins)
    key, fragment = key[begins], fragment[begins]

    order = np.lexsort((parts, key))  # the largest part last
    key, fragment = key[order], fragment[order]
    begins = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    ends = np.r_[begins[1:], len(key)] - 1
    energy = np.add.reduceat(parts[order], begins)
    times, lengths = np.minimum.reduceat(times[order], begins), np.add.reduceat(lengths[order], begins)
    key, fragment = key[ends], fragment[ends]
    bright = energy >= FAINTEST
    cell = np.stack(np.unravel_index(key % SIZE**3, (SIZE,) * 3), 1)
    return Voxels(key // SIZE**3, cell, energy, times, lengths, fragment)[bright]


def settle_small(voxels, fragments):
    """Join fragments below SMALLEST to fragments that they touch.

    Returns the fragment of each voxel, and whether the voxel is a low-energy deposit."""
    sizes = np.bincount(voxels.fragment, minlength=len(fragments))
    limits = np.array([SMALLEST[c] for c in sorted(SMALLEST)])[fragments.semantic]
    small = sizes < limits
    key = _key(voxels.event, voxels.cell)  # ascending, as fill sorts the voxels
    loose = np.flatnonzero(small[voxels.fragment])
    near = voxels.cell[loose, None] + _NEIGHBOURS
    near_key = _key(voxels.event[loose, None], near)
    position = np.searchsorted(key, near_key).clip(max=len(key) - 1)
    touched = voxels.fragment[position]
    real = (key[position] == near_key) & ((near >= 0) & (near < SIZE)).all(2) & ~small[touched]
    # choose the largest neighbouring fragment, and of several the one with the highest number
    best = np.where(real, sizes[touched] * len(fragments) + touched, -1).max(1)
    target = np.full(len(fragments), -1)
    np.maximum.at(target, voxels.fragment[loose], best)
    joined = np.where(target >= 0, target % len(fragments), np.arange(len(fragments)))
    return joined[voxels.fragment], (small & (target < 0))[voxels.fragment]


def _key(event, cell):
    """Return a unique number for each voxel of each event."""
    return ((event * SIZE + cell[..., 0]) * SIZE + cell[..., 1]) * SIZE + cell[..., 2]
