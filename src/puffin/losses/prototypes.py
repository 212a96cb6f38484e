"""Losses of self-distillation: how points are assigned to prototypes.

Source: SwAV, arXiv 2006.09882, sec. 3; DINO, arXiv 2104.14294, sec. 3.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.layers.all_reduce import all_reduce_sum

STUDENT_TEMPERATURE = 0.1
_ROUNDS = 3  # as in SwAV; more bring the shares of the prototypes closer together


@torch.no_grad()
def even_assignments(cosines: Tensor, temperature: float, shared: bool = True) -> Tensor:
    """Assign each point to prototypes so that all prototypes get about the same share of the points: (P, K).

    cosines (P, K) of features and prototypes; temperature at least 0.03; shared: over the points of all processes. The
    rows add up to 1. Sinkhorn-Knopp: rows and columns of exp(cosine / temperature) are normalised in turns."""
    assigned = ((cosines - 1) / temperature).exp()
    for _ in range(_ROUNDS):
        shares = assigned.sum(0)
        assigned /= all_reduce_sum(shares) if shared else shares
        assigned /= assigned.sum(1, keepdim=True)
    return assigned


def assignment_errors(cosines: Tensor, assigned: Tensor) -> Tensor:
    """Compute the cross entropy of each point's assignment and the student's probabilities, (P,).

    cosines, assigned (P, K): of the student, and what it is to predict."""
    return F.cross_entropy(cosines / STUDENT_TEMPERATURE, assigned, reduction="none")


def distinguished(probabilities: Tensor, entropies: Tensor, number: Tensor) -> float:
    """Return how many prototypes tell points apart: from 1, if all points have the same probabilities, to K.

    It is the exponential of the mutual information of points and prototypes. probabilities (K,) and entropies (): sums
    over the points of their probabilities and of the entropies of these; number: of points. nan without points."""
    mean = probabilities / number
    return float((torch.special.entr(mean).sum() - entropies / number).exp())
