"""Generators of the Lorentz group, random group elements, and the verdict on a measurement."""

import math

import torch

from puffin.layers.symmetries import (
    CHANGED,
    UNCHANGED,
    UNSPECIFIED,
    Measurement,
    failures,
    lorentz_generators,
    random_permutation,
    random_transformation,
    split_generators,
    stretched_space,
)

METRIC = torch.diag(torch.tensor([1.0, -1, -1, -1], dtype=torch.float64))


def test_generators_keep_the_metric():
    """G^T eta + eta G = 0."""
    for g in lorentz_generators():
        assert torch.equal(g.t() @ METRIC + METRIC @ g, torch.zeros(4, 4, dtype=torch.float64))


def test_random_transformations_keep_the_metric():
    """L^T eta L = eta for a random element, and not for the control."""
    matrix = random_transformation(lorentz_generators(), torch.Generator().manual_seed(0))
    assert (matrix.t() @ METRIC @ matrix - METRIC).abs().max() < 1e-12 < (matrix - torch.eye(4)).abs().max()
    assert (stretched_space() @ METRIC @ stretched_space() - METRIC).abs().max() > 0.1


def test_stabilizer_fixes_vectors_and_forms():
    """Elements of the stabilizer leave the vector and the form as they are; those of the complement do not."""
    vector, form = (1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.0)
    v, r = torch.tensor(vector, dtype=torch.float64), torch.tensor(form, dtype=torch.float64)
    stabilizer, complement = split_generators([vector], [form])
    assert len(stabilizer) + len(complement) == 6 and len(stabilizer) == 1
    for generators, moves in ((stabilizer, False), (complement, True)):
        matrix = random_transformation(generators, torch.Generator().manual_seed(1))
        change = max(float((matrix @ v - v).abs().max()), float((r @ matrix - r).abs().max()))
        assert change > 1e-3 if moves else change < 1e-12


def test_permutations_stay_within_events():
    """Each event's nodes remain in its range, and the order does change."""
    order = random_permutation(torch.tensor([4, 0, 30]), torch.Generator().manual_seed(0))
    assert sorted(order[:4].tolist()) == [0, 1, 2, 3] and sorted(order[4:].tolist()) == list(range(4, 34))
    assert order.tolist() != list(range(34)) and not len(random_permutation(torch.tensor([], dtype=torch.int64), None))


def test_verdicts():
    """A control must change, all else must not; NaN passes neither."""
    lines = [(1e-9, UNCHANGED), (1e-3, UNCHANGED), (1e-9, CHANGED), (1e-3, CHANGED), (1.0, UNSPECIFIED)]
    lines += [(math.nan, UNCHANGED), (math.nan, CHANGED)]
    measured = [Measurement(f"line {k}", *line) for k, line in enumerate(lines)]
    assert [m.name for m in failures(measured)] == ["line 1", "line 2", "line 5", "line 6"]
