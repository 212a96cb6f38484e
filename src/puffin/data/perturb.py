"""Perturbations of jets, such as a detector or another simulation causes them: what a tagger should survive.

Each takes a batch, a strength and a random generator, and returns a new batch. A strength of 0 changes nothing. Momenta
(N, 4) are E, px, py, pz in GeV; jets stay in their order. Features of particles are those of the particle from which a
momentum was made; an added particle gets those of a random particle of its jet.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from puffin.data.packing import JetBatch
from puffin.layers.packed import event_of_row, offsets, rank_in_event
from puffin.settings import names

SOFT_PT = 1.0  # GeV, mean pT of added particles
SOFT_RADIUS = 0.8  # of the disc in rapidity and azimuth in which they are spread


def scale_energies(batch: JetBatch, strength: float, generator: Generator) -> JetBatch:
    """Multiply all momenta by 1 + strength."""
    return replace(batch, fourmomenta=batch.fourmomenta * (1 + strength))


def smear_energies(batch: JetBatch, strength: float, generator: Generator) -> JetBatch:
    """Multiply each momentum by a random factor with a log-normal distribution of width `strength`."""
    noise = torch.randn(len(batch.fourmomenta), 1, generator=generator)
    return replace(batch, fourmomenta=batch.fourmomenta * (strength * noise).exp())


def smear_directions(batch: JetBatch, strength: float, generator: Generator) -> JetBatch:
    """Shift rapidity and azimuth of each particle by Gaussian noise of width `strength`; its pT and mass stay."""
    p = batch.fourmomenta.double()
    noise = strength * torch.randn(len(p), 2, generator=generator, dtype=p.dtype)
    cosine, sine = noise[:, 0].cosh(), noise[:, 0].sinh()
    energy, pz = p[:, 0] * cosine + p[:, 3] * sine, p[:, 3] * cosine + p[:, 0] * sine
    c, s = noise[:, 1].cos(), noise[:, 1].sin()
    px, py = p[:, 1] * c - p[:, 2] * s, p[:, 2] * c + p[:, 1] * s
    return replace(batch, fourmomenta=torch.stack([energy, px, py, pz], 1).float())


def drop_soft(batch: JetBatch, strength: float, generator: Generator) -> JetBatch:
    """Remove particles with a pT below `strength` [GeV]; a jet keeps its hardest particle."""
    pt, jets = _transverse_momentum(batch.fourmomenta), event_of_row(batch.lengths)
    hardest = pt.new_zeros(len(batch)).scatter_reduce(0, jets, pt, "amax")
    return _taken(batch, ((pt >= strength) | (pt == hardest[jets])).nonzero()[:, 0])


def split_collinear(batch: JetBatch, strength: float, generator: Generator) -> JetBatch:
    """Split a fraction `strength` of the particles into two of the same direction, with uniform fractions of energy."""
    number = len(batch.fourmomenta)
    split = torch.rand(number, generator=generator) < strength
    share = torch.where(split, torch.rand(number, generator=generator), 1.0)
    rows = torch.arange(number).repeat_interleave(1 + split.long())
    second = torch.cat([rows.new_zeros(1, dtype=torch.bool), rows[1:] == rows[:-1]]) if number else rows.bool()
    factors = torch.where(second, 1 - share[rows], share[rows])
    taken = _taken(batch, rows)
    return replace(taken, fourmomenta=taken.fourmomenta * factors[:, None])


def add_soft(batch: JetBatch, strength: float, generator: Generator) -> JetBatch:
    """Add about `strength` massless particles of exponential pT to each jet, spread evenly in a disc about its axis."""
    numbers = torch.poisson(torch.full((len(batch),), float(strength)), generator=generator).long()
    numbers = numbers * (batch.lengths > 0)
    jets = torch.arange(len(batch)).repeat_interleave(numbers)
    axes = torch.zeros(len(batch), 4).index_add(0, event_of_row(batch.lengths), batch.fourmomenta)[jets]
    draws = torch.rand(4, len(jets), generator=generator)
    pt = -SOFT_PT * (1 - draws[0]).log()
    radius, angle = SOFT_RADIUS * draws[1].sqrt(), 2 * torch.pi * draws[2]
    rapidity = (axes[:, 3] / axes[:, 0]).clamp(-1 + 1e-6, 1 - 1e-6).atanh() + radius * angle.cos()
    azimuth = torch.atan2(axes[:, 2], axes[:, 1]) + radius * angle.sin()
    columns = (rapidity.cosh(), azimuth.cos(), azimuth.sin(), rapidity.sinh())
    added = pt[:, None] * torch.stack(columns, 1)
    like = offsets(batch.lengths)[jets] + (draws[3] * batch.lengths[jets]).long()
    order = torch.cat([event_of_row(batch.lengths), jets]).argsort(stable=True)
    scalars = None if batch.scalars is None else torch.cat([batch.scalars, batch.scalars[like]])[order]
    fourmomenta = torch.cat([batch.fourmomenta, added])[order]
    return replace(batch, fourmomenta=fourmomenta, lengths=batch.lengths + numbers, scalars=scalars)


class Perturbation(NamedTuple):
    """A perturbation of jets, and the strengths that are tried."""

    apply: Callable[[JetBatch, float, Generator], JetBatch]
    strengths: tuple[float, ...]


PERTURBATIONS = {
    "scale": Perturbation(scale_energies, (-0.1, -0.05, -0.02, 0.02, 0.05, 0.1)),
    "energies": Perturbation(smear_energies, (0.02, 0.05, 0.1, 0.2)),
    "directions": Perturbation(smear_directions, (0.001, 0.003, 0.01, 0.03)),
    "loss": Perturbation(drop_soft, (0.5, 1.0, 2.0, 5.0)),
    "splitting": Perturbation(split_collinear, (0.05, 0.1, 0.2, 0.5)),
    "addition": Perturbation(add_soft, (1, 3, 10, 30)),
}
assert tuple(PERTURBATIONS) == tuple(names.PERTURBATIONS)


def hardest(batch: JetBatch, number: int) -> JetBatch:
    """Sort the particles of each jet by falling pT, and keep at most `number` of them (-1: all)."""
    jets = event_of_row(batch.lengths)
    order = _transverse_momentum(batch.fourmomenta).argsort(descending=True, stable=True)
    order = order[jets[order].argsort(stable=True)]
    return _taken(batch, order if number < 0 else order[rank_in_event(batch.lengths) < number])


def _transverse_momentum(p: Tensor) -> Tensor:
    return p[:, 1:3].norm(dim=1)


def _taken(batch: JetBatch, rows: Tensor) -> JetBatch:
    """Take particles by their rows, in the order of their jets."""
    lengths = event_of_row(batch.lengths)[rows].bincount(minlength=len(batch))
    scalars = None if batch.scalars is None else batch.scalars[rows]
    return replace(batch, fourmomenta=batch.fourmomenta[rows], lengths=lengths, scalars=scalars)
