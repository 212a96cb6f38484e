"""Soft-drop multiplicity against a loop over one event, and its symmetries."""

import pytest
import torch

from puffin.layers.lorentz import rank2_inputs
from puffin.layers.softdrop import soft_drop_multiplicity
from puffin.layers.symmetries import toy_momenta
from tests.layers.equivariance import (
    BatchMates,
    LorentzStabilizer,
    PairLayer,
    Permutations,
    assert_equivariant,
    geometry,
)


def multiplicity(p, pairs):
    """Momenta (N, 4) to (B, 1)."""
    return pairs.soft_drop_multiplicity(rank2_inputs(p, pairs, "so13", "input"))[:, None]


def by_loop(p: torch.Tensor) -> int:
    """Cluster the momenta of one event pair by pair, and count on the hardest branch of each merge."""
    metric = torch.tensor([1.0, -1, -1, -1], dtype=p.dtype)
    total = p.sum(0)
    mass2 = abs(float((total * metric * total).sum()))
    branches = [(q, 0) for q in p]

    def energy(q):
        return float((q * metric * total).sum())

    while len(branches) > 1:
        best = None
        for i in range(len(branches)):
            for j in range(i + 1, len(branches)):
                (a, _), (b, _) = branches[i], branches[j]
                theta2 = 2 * float((a * metric * b).sum()) / (1e-12 + abs(energy(a) * energy(b)) / mass2)
                if best is None or theta2 < best[0]:
                    best = (theta2, i, j)
        theta2, i, j = best
        (a, count_a), (b, count_b) = branches[i], branches[j]
        z = min(energy(a), energy(b)) / (energy(a) + energy(b))
        passes = theta2 > 0 and z > 0.005 * (theta2**0.5 / 0.8) ** -1
        count = (count_a if energy(a) >= energy(b) else count_b) + passes
        branches = [branch for k, branch in enumerate(branches) if k not in (i, j)] + [(a + b, count)]
    return max(branches[0][1], 1)


def test_against_a_loop():
    """Eight events at once; wrong merges, counts or thresholds break it."""
    momenta, lengths = toy_momenta(8, torch.Generator().manual_seed(3))
    got = multiplicity(momenta, geometry(lengths))[:, 0].tolist()
    assert got == [by_loop(p) for p in momenta.split(lengths.tolist())]
    assert len(set(got)) > 2 and max(got) > 3


@pytest.mark.parametrize("group", [LorentzStabilizer(), Permutations(), BatchMates()], ids=lambda g: type(g).__name__)
def test_symmetries(group):
    """A count is the same after any Lorentz transformation and in any order; a stretched space changes some counts."""
    assert_equivariant(PairLayer(multiplicity, "nodes", "events", momenta=True), group)


def test_small_events():
    """No event, an empty one, and one particle count as 1."""
    for lengths in ([], [0], [1], [0, 1, 0]):
        pairs = geometry(torch.tensor(lengths, dtype=torch.int64))
        dots = torch.ones(pairs.index.num_pairs, 1, dtype=torch.float64)
        assert soft_drop_multiplicity(dots, pairs.index).tolist() == [1.0] * len(lengths)
