"""Whole events: what enters the detector, the cascade that follows, and the rows of a PILArNet-M file."""

from dataclasses import dataclass

import numpy as np

from lartpc import argon
from lartpc.argon import ELECTRON, MASS, MUON, PHOTON, PROTON
from lartpc.endings import end_at_rest, end_in_flight
from lartpc.particles import DELTA, LED, SHOWER, Fragments, Particles, isotropic
from lartpc.showers import fly
from lartpc.tracks import EDGE, Segments, transport
from lartpc.voxels import fill, settle_small

POINT_COLUMNS = ("x", "y", "z", "value", "energy", "time", "electrons", "dx")


@dataclass(frozen=True)
class Recipe:
    """What is in an event: means are of Poisson distributions, energies are kinetic [MeV] and uniform."""

    vertices: float = 0.4  # beyond the first
    particles: float = 2.7  # of a vertex, beyond the first two
    shares: tuple = (0.19, 0.22, 0.19, 0.15, 0.25)  # of PHOTON, ELECTRON, MUON, PION, PROTON
    lowest: tuple = (30, 30, 50, 50, 50)
    highest: tuple = (800, 800, 600, 500, 400)
    crossing_muons: float = 0.6
    crossing_energy: tuple = (500, 20000)  # log-uniform


def primaries(number, recipe, rng):
    """(particles, event (N,), interaction (N,)) of `number` events."""
    vertices = 1 + rng.poisson(recipe.vertices, number)
    crossing = rng.poisson(recipe.crossing_muons, number)
    event_of_vertex = np.repeat(np.arange(number), vertices)
    place = rng.uniform(0.05, 0.95, (len(event_of_vertex), 3)) * EDGE
    many = 2 + rng.poisson(recipe.particles, len(place))
    vertex = np.repeat(np.arange(len(place)), many)
    kind = rng.choice(len(MASS), size=len(vertex), p=recipe.shares)
    energy = rng.uniform(np.take(recipe.lowest, kind), np.take(recipe.highest, kind))
    bombs = _particles(kind, place[vertex], isotropic(len(vertex), rng), energy, rng)
    muons = _crossing_muons(int(crossing.sum()), recipe, rng)

    event = np.concatenate([event_of_vertex[vertex], np.repeat(np.arange(number), crossing)])
    # interactions of an event: its vertices, then its muons
    interaction = np.concatenate(
        [
            _counted(event_of_vertex)[vertex],
            np.repeat(vertices, crossing) + _counted(np.repeat(np.arange(number), crossing)),
        ]
    )
    particles = Particles.join([bombs, muons])
    particles.fragment = np.arange(len(particles))  # one each
    return particles, event, interaction


def _crossing_muons(number, recipe, rng):
    """Muons through uniform points of the detector, started at its wall; downward, about as cos^2 of the zenith angle (y is up)."""
    through = rng.uniform(0, 1, (number, 3)) * EDGE
    down, azimuth = rng.random(number) ** (1 / 3), rng.uniform(0, 2 * np.pi, number)
    across = np.sqrt(1 - down**2)
    direction = np.stack([across * np.cos(azimuth), -down, across * np.sin(azimuth)], 1)
    # back to the first wall behind
    back = np.where(direction > 0, through, through - EDGE) / direction
    wall = np.clip(through - back.min(1, keepdims=True) * direction, 0, EDGE * (1 - 1e-9))
    low, high = np.log(recipe.crossing_energy)
    return _particles(np.full(number, MUON), wall, direction, np.exp(rng.uniform(low, high, number)), rng)


def _particles(kind, position, direction, energy, rng):
    charge = np.where(rng.random(len(kind)) < 0.5, 1, -1)
    charge = np.select([kind == PHOTON, kind == ELECTRON, kind == PROTON], [0, -1, 1], charge)
    return Particles(kind, charge, position, direction, energy, np.zeros(len(kind)), np.zeros(len(kind), int))


def _counted(groups):
    """0, 1, 2, ... within each run of equal values of sorted groups."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.zeros(0, int)
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))


def cascade(particles, fragments, table, rng):
    """Follow particles and all that they make: (segments, fragments, kinetic and photon energy [MeV] that left the detector).

    Alternates between all charged particles and all photons, until none is left."""
    charged, light = particles[particles.kind != PHOTON], particles[particles.kind == PHOTON]
    segments, escaped = [], 0.0
    while len(charged) or len(light):
        outcome = transport(charged, table, rng)
        segments.append(outcome.segments)
        rays, heavy = outcome.deltas, outcome.struck_by != ELECTRON
        delta = rays[heavy]
        fragments = fragments.begin(delta, DELTA)
        stopped, from_stopped, fragments = end_at_rest(outcome.stopped, fragments, rng)
        broken, from_broken, fragments = end_in_flight(outcome.interacted, fragments, rng)

        born, conversion, lost = fly(Particles.join([light, outcome.photons, from_stopped, from_broken]), rng)
        fragments = _begin_conversions(born, conversion, fragments)
        charged = Particles.join([rays[~heavy], delta, stopped, broken, born])
        light = particles[:0]
        escaped += outcome.escaped + lost
    return Segments.join(segments), fragments, escaped


def _begin_conversions(born, conversion, fragments):
    """Each conversion of a photon begins a shower fragment, that of its parent's group where the parent is a shower."""
    _, first, number = np.unique(conversion, return_index=True, return_inverse=True)
    leaders = born[first]
    fragments = fragments.begin(leaders, SHOWER)
    born.fragment = leaders.fragment[number]
    return fragments


@dataclass
class Event:
    """Rows of a file: points (N, 8) float32 by POINT_COLUMNS; clusters (M, 6) int32: points, fragment, group, interaction,
    semantic, pid; extra (M, 5) float32: mass [MeV], momentum [GeV], vertex [mm from the centre] of the group's particle.

    Points are ordered by cluster; cluster 0 holds the low-energy deposits, its other ids are -1."""

    points: np.ndarray
    clusters: np.ndarray
    extra: np.ndarray


def simulate(number, recipe, rng):
    """`number` events, a list of Event."""
    particles, event, interaction = primaries(number, recipe, rng)
    fragments = Fragments.of_primaries(particles, event, interaction)
    segments, fragments, _ = cascade(particles, fragments, argon.CollisionTable(), rng)
    voxels = fill(segments, fragments.event)
    fragment, is_led = settle_small(voxels, fragments)
    fragment = np.where(is_led, -1, fragment)
    order = np.lexsort((fragment, voxels.event))
    voxels, fragment = voxels[order], fragment[order]
    bounds = np.searchsorted(voxels.event, np.arange(number + 1))
    return [_event(voxels[a:b], fragment[a:b], fragments) for a, b in zip(bounds[:-1], bounds[1:], strict=False)]


def _event(voxels, fragment, fragments):
    collected = argon.electrons_collected(voxels.energy, voxels.length)
    points = np.column_stack([voxels.cell, voxels.energy, voxels.energy, voxels.time, collected, voxels.length])
    ids, sizes = np.unique(fragment[fragment >= 0], return_counts=True)
    own = fragments[ids]
    # the group is named after its first fragment in the file
    _, first, group = np.unique(own.root, return_index=True, return_inverse=True)
    leader = fragments[own.root]
    led = int((fragment < 0).sum())
    clusters = np.column_stack([sizes, np.arange(len(ids)), first[group], own.interaction, own.semantic, own.pid])
    extra = np.column_stack([leader.mass, leader.momentum / 1000, 10 * (leader.vertex - EDGE / 2)])
    clusters = np.concatenate([[[led, -1, -1, -1, LED, -1]], clusters]).astype(np.int32)
    extra = np.concatenate([np.full((1, 5), -1.0), extra]).astype(np.float32)
    return Event(points.astype(np.float32), clusters, extra)
