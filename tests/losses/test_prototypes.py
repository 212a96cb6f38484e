"""Assignments of points to prototypes, and how many prototypes tell points apart."""

import math

import pytest
import torch

from puffin.losses.prototypes import STUDENT_TEMPERATURE, assignment_errors, distinguished, even_assignments


def cosines(points=200, prototypes=8):
    return torch.rand(points, prototypes, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def test_prototypes_get_even_shares():
    """Although all points prefer the same prototype. Each point keeps the order of its preferences for the others.

    Breaks if rows and columns are exchanged."""
    biased = cosines() * 0.3 + torch.tensor([0.7] + [0.0] * 7).double()
    plain = (biased / 0.1).softmax(1)
    assigned = even_assignments(biased, 0.1)
    assert torch.allclose(assigned.sum(1), torch.ones(200).double())
    assert plain.mean(0)[0] > 0.9 and ((assigned.mean(0) - 1 / 8).abs() < 0.02).all()
    converged = biased / 0.1
    for _ in range(200):  # the same fixed point, from logarithms
        converged = converged - converged.logsumexp(0)
        converged = converged - converged.logsumexp(1, keepdim=True)
    assert torch.allclose(assigned, converged.exp(), atol=0.02)


def test_extreme_cosines_are_finite():
    """At the lowest temperature of the flag, in float32, with a prototype that is opposite to every point."""
    x = torch.ones(5, 3)
    x[:, 1] = -1
    assigned = even_assignments(x, 0.03)
    assert assigned.isfinite().all() and torch.allclose(assigned.sum(1), torch.ones(5))
    assert even_assignments(x[:0], 0.03).shape == (0, 3)


def test_errors():
    """The cross entropy, from its definition; its gradient is for the student alone."""
    student, teacher = cosines(5).requires_grad_(), cosines(6)[1:].requires_grad_()
    assigned = even_assignments(teacher, 0.05)
    errors = assignment_errors(student, assigned)
    expected = -(assigned * (student / STUDENT_TEMPERATURE).log_softmax(1)).sum(1)
    assert torch.allclose(errors, expected)
    errors.sum().backward()
    assert student.grad.any() and teacher.grad is None


@pytest.mark.parametrize(
    "probabilities, expected",
    [
        (torch.eye(4).repeat(3, 1), 4),  # sharp and even
        (torch.full((5, 4), 0.25), 1),  # all points the same: no prototype distinguishes them
        (torch.tensor([[1.0, 0, 0, 0]] * 5), 1),
        (torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]), 2),
    ],
)
def test_distinguished_prototypes(probabilities, expected):
    entropies = torch.special.entr(probabilities).sum()
    found = distinguished(probabilities.sum(0), entropies, torch.tensor(len(probabilities)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_no_points():
    assert math.isnan(distinguished(torch.zeros(4), torch.tensor(0.0), torch.tensor(0)))
