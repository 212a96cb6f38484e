"""Measure whether a network or a layer has a symmetry: random group elements, the change of the output, the verdict.

Everything is measured in float64.  The command --test (tasks/symmetry.py) and the tests of the layers use these.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LIMIT = 1e-6  # largest relative change that rounding may cause; boosts of massless jets lose many digits
CONTROL = 1e-5  # smallest relative change that a broken symmetry must cause

UNCHANGED, CHANGED, UNSPECIFIED = "unchanged", "changed", "unspecified"


class Measurement(NamedTuple):
    """One line of a symmetry report.

    change: largest change of the output, relative to its largest entry.  expected: UNCHANGED (but for rounding);
    CHANGED for a control, which must break the symmetry; UNSPECIFIED where the network promises nothing.
    """

    name: str
    change: float
    expected: str

    @property
    def passed(self) -> bool:
        """Whether the change is as small, or for a control as large, as it must be; NaN never passes."""
        return {UNCHANGED: self.change < LIMIT, CHANGED: self.change > CONTROL, UNSPECIFIED: True}[self.expected]

    def __str__(self) -> str:
        return f"{self.name}: relative change {self.change:.1e}, expected {self.expected}"


def relative_change(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest entry of `expected`.

    >>> relative_change(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0]))
    0.125
    """
    return float((found - expected).abs().max() / expected.abs().max())


def failures(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Return the measurements that did not pass."""
    return [m for m in measurements if not m.passed]


# -- the Lorentz group -----------------------------------------------------------------------------------------------


def lorentz_generators() -> Tensor:
    """Return the generators of three boosts, then of three rotations: (6, 4, 4) float64, acting on (E, px, py, pz)."""
    g = torch.zeros(6, 4, 4, dtype=torch.float64)
    for k in range(3):
        g[k, 0, k + 1] = g[k, k + 1, 0] = 1
        i, j = (k + 1) % 3 + 1, (k + 2) % 3 + 1
        g[3 + k, i, j], g[3 + k, j, i] = -1, 1
    return g


def split_generators(
    vectors: Sequence[Sequence[float]], forms: Sequence[Sequence[float]] = ()
) -> tuple[Tensor, Tensor]:
    """Split the Lorentz algebra into the stabilizer of vectors and linear forms, and its complement: two (k, 4, 4).

    vectors: each v (4,) is to stay as it is, G v = 0.  forms: each r (4,) is to stay as it is, r G = 0.

    >>> [len(part) for part in split_generators([(1.0, 0.0, 0.0, 0.0)])]  # the rotations fix the time axis
    [3, 3]
    """
    g = lorentz_generators()
    fixed = [g @ torch.tensor(v, dtype=torch.float64) for v in vectors]
    fixed += [torch.tensor(r, dtype=torch.float64) @ g for r in forms]
    moved = torch.cat(fixed, 1).t() if fixed else torch.zeros(1, 6, dtype=torch.float64)
    _, singular, basis = torch.linalg.svd(moved, full_matrices=True)
    rank = int((singular > 1e-9).sum())

    def combine(rows):
        return torch.einsum("ka,aij->kij", rows, g)

    return combine(basis[rank:]), combine(basis[:rank])


def random_transformation(generators: Tensor, random: torch.Generator) -> Tensor:
    """Draw exp(sum_k a_k G_k) with normal a_k of deviation 0.5: (k, 4, 4) -> (4, 4)."""
    angles = torch.randn(len(generators), generator=random, dtype=torch.float64) * 0.5
    return torch.linalg.matrix_exp(torch.einsum("k,kij->ij", angles, generators))


def stretched_space() -> Tensor:
    """Return a matrix (4, 4) that scales the three axes differently: outside the Lorentz group."""
    return torch.diag(torch.tensor([1.0, 1.3, 0.8, 1.1], dtype=torch.float64))


def toy_momenta(num_jets: int, random: torch.Generator, massless: bool = False) -> tuple[Tensor, Tensor]:
    """Draw jets of 2 to 20 particles around an axis near +x, with momenta of a few GeV each.

    Returns momenta (N, 4) float64 [GeV] and lengths (B,); the particles have a mass of 0.14 GeV unless massless.
    """
    lengths = torch.randint(2, 21, (num_jets,), generator=random)
    n = int(lengths.sum())
    axis = torch.tensor([1.0, 0.3, 0.2], dtype=torch.float64)
    direction = torch.randn(n, 3, generator=random, dtype=torch.float64) * 0.3 + axis
    momentum = direction * torch.rand(n, 1, generator=random, dtype=torch.float64).add(0.05) * 30
    mass = 0.0 if massless else 0.14
    energy = (momentum.square().sum(1, keepdim=True) + mass**2).sqrt()
    return torch.cat([energy, momentum], 1), lengths


# -- permutations ----------------------------------------------------------------------------------------------------


def random_permutation(lengths: Tensor, random: torch.Generator) -> Tensor:
    """Draw an order (N,) that permutes the nodes within each event; lengths (B,)."""
    starts = (lengths.cumsum(0) - lengths).tolist()
    orders = [torch.randperm(n, generator=random) + start for n, start in zip(lengths.tolist(), starts, strict=True)]
    return torch.cat(orders) if orders else torch.zeros(0, dtype=torch.int64)
