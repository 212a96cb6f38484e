"""Simulate whole events: the primary particles, the cascade that follows, and the rows of a PILArNet-M file."""

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
    """Primary particles of an event: means of Poisson distributions; kinetic energies [MeV], uniform."""

    vertices: float = 0.4  # mean number, in addition to one
    particles: float = 2.7  # mean number per vertex, in addition to two
    shares: tuple = (0.19, 0.22, 0.19, 0.15, 0.25)  # fractions of PHOTON, ELECTRON, MUON, PION, PROTON
    lowest: tuple = (30, 30, 50, 50, 50)
    highest: tuple = (800, 800, 600, 500, 400)
    crossing_muons: float = 0.6
    crossing_energy: tuple = (500, 20000)  # log-uniform


def primaries(number, recipe, rng):
    """Draw the primary particles of `number` events: (particles, event (N,), interaction (N,))."""
    vertices = 1 + rng.poisson(recipe.vertices, number)
    crossing = rng.poisson(recipe.crossing_muons, number)
    event_of_vertex = np.repeat(np.arange(number), vertices)
    position = rng.uniform(0.05, 0.95, (len(event_of_vertex), 3)) * EDGE
    particles_of_vertex = 2 + rng.poisson(recipe.particles, len(position))
    vertex = np.repeat(np.arange(len(position)), particles_of_vertex)
    kind = rng.choice(len(MASS), size=len(vertex), p=recipe.shares)
    energy = rng.uniform(np.take(recipe.lowest, kind), np.take(recipe.highest, kind))
    from_vertices = _particles(kind, position[vertex], isotropic(len(vertex), rng), energy, rng)
    muons = _crossing_muons(int(crossing.sum()), recipe, rng)

    event = np.concatenate([event_of_vertex[vertex], np.repeat(np.arange(number), crossing)])
    # interactions are numbered within each event: first its vertices, then its muons
    interaction = np.concatenate(
        [
            _counted(event_of_vertex)[vertex],
            np.repeat(vertices, crossing) + _counted(np.repeat(np.arange(number), crossing)),
        ]
    )
    particles = Particles.join([from_vertices, muons])
    particles.fragment = np.arange(len(particles))
    return particles, event, interaction


def _crossing_muons(number, recipe, rng):
    """Draw muons that enter at a wall and pass through uniform points of the detector.

    They go downward (y points up), with about cos^2 of the zenith angle."""
    through = rng.uniform(0, 1, (number, 3)) * EDGE
    down, azimuth = rng.random(number) ** (1 / 3), rng.uniform(0, 2 * np.pi, number)
    across = np.sqrt(1 - down**2)
    direction = np.stack([across * np.cos(azimuth), -down, across * np.sin(azimuth)], 1)
    # distance back to the wall where the muon enters
    back = np.where(direction > 0, through, through - EDGE) / direction
    wall = np.clip(through - back.min(1, keepdims=True) * direction, 0, EDGE * (1 - 1e-9))
    low, high = np.log(recipe.crossing_energy)
    return _particles(np.full(number, MUON), wall, direction, np.exp(rng.uniform(low, high, number)), rng)


def _particles(kind, position, direction, energy, rng):
    charge = np.where(rng.random(len(kind)) < 0.5, 1, -1)
    charge = np.select([kind == PHOTON, kind == ELECTRON, kind == PROTON], [0, -1, 1], charge)
    return Particles(kind, charge, position, direction, energy, np.zeros(len(kind)), np.zeros(len(kind), int))


def _counted(groups):
    """Number the elements 0, 1, 2, ... within each run of equal values of the sorted groups."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.zeros(0, int)
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))


def cascade(particles, fragments, table, rng):
    """Simulate particles and all their secondaries: (segments, fragments, energy [MeV] that left the detector).

    Alternates between all charged particles and all photons until none is left. The escaped energy is kinetic energy
    and that of photons. table: argon.CollisionTable."""
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
    """Start a shower fragment for each conversion of a photon; returns the new table of fragments."""
    _, first, number = np.unique(conversion, return_index=True, return_inverse=True)
    leaders = born[first]
    fragments = fragments.begin(leaders, SHOWER)
    born.fragment = leaders.fragment[number]
    return fragments


@dataclass
class Event:
    """Rows of a file.

    points (N, 8) float32: POINT_COLUMNS; clusters (M, 6) int32: number of points, fragment, group, interaction,
    semantic class, PID; extra (M, 5) float32: mass [MeV], momentum [GeV] and vertex [mm from the centre] of the
    group's particle. Points are ordered by cluster. Cluster 0 holds the low-energy deposits; its ids and PID are
    -1."""

    points: np.ndarray
    clusters: np.ndarray
    extra: np.ndarray


def simulate(number, recipe, rng):
    """Simulate `number` events; returns a list of Event."""
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
    # the number of a group is that of its first fragment in the file
    _, first, group = np.unique(own.root, return_index=True, return_inverse=True)
    leader = fragments[own.root]
    led = int((fragment < 0).sum())
    clusters = np.column_stack([sizes, np.arange(len(ids)), first[group], own.interaction, own.semantic, own.pid])
    extra = np.column_stack([leader.mass, leader.momentum / 1000, 10 * (leader.vertex - EDGE / 2)])
    clusters = np.concatenate([[[led, -1, -1, -1, LED, -1]], clusters]).astype(np.int32)
    extra = np.concatenate([np.full((1, 5), -1.0), extra]).astype(np.float32)
    return Event(points.astype(np.float32), clusters, extra)
