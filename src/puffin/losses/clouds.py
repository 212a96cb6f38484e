"""Losses on point clouds: what a masked autoencoder predicts, and the classes of points.

Source: spec/polarmae.md sections 6 and 8; focal: Lin et al., arXiv 1708.02002; dice: Milletari et al., 1606.04797.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.layers.packed import pad, unpad
from puffin.ops.chamfer import chamfer_distance


def chamfer_by_group(predicted: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """Chamfer distance between predicted and true groups, of each group: (M,).

    predicted (M, size, D), of which the first counts (M,) int64 on the CPU count; groups (G, D) one after another."""
    predicted = predicted.to(torch.promote_types(predicted.dtype, groups.dtype))
    true, number = pad(groups, counts, predicted.shape[1]), counts.to(groups.device)
    return chamfer_distance(predicted, true.to(predicted.dtype), number, number, reduction="none")


def energy_by_group(predicted: Tensor, energies: Tensor, counts: Tensor) -> Tensor:
    """The squared errors of each group's points, summed: (M,).

    predicted (M, size), of which the first counts (M,) int64 on the CPU count; energies (G,) group after group."""
    squares = (unpad(predicted, counts).to(energies.dtype) - energies).square()
    group = torch.repeat_interleave(counts).to(squares.device)
    return squares.new_zeros(len(counts)).index_add(0, group, squares)


def nll_sums(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross entropy, weighted by class: (2,), the sum over the points, and their weights.

    logits (P, C), target (P,) int64, weight (C,)."""
    each = F.cross_entropy(logits, target, reduction="none")
    weights = torch.ones_like(each) if weight is None else weight.to(each)[target]
    return torch.stack([(each * weights).sum(), weights.sum()])


def focal_sums(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross entropy of each point, weighted by class and by (1 - p)^2 of its class's probability p: (2,), the sum over the
    points, and their number.  Arguments as above."""
    log_p = F.log_softmax(logits, 1).gather(1, target[:, None])[:, 0]
    each = -log_p * log_p.expm1().square()
    each = each if weight is None else each * weight.to(each)[target]
    return torch.stack([each.sum(), each.new_tensor(len(target))])


def mean_of(sums: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean from a sum and what it is over, (2,); 0 of nothing.  weight: in the sums already."""
    return sums[0] / sums[1].clamp_min(torch.finfo(sums.dtype).tiny)


def dice_sums(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """(3 C,): sum(p y), sum(p) and sum(y) over the points for each class.  weight: comes in later."""
    p = logits.softmax(1)
    y = F.one_hot(target, logits.shape[1]).to(p.dtype)
    return torch.cat([(p * y).sum(0), p.sum(0), y.sum(0)])


def dice_of(sums: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1) for each class, averaged with its weight."""
    both, given, true = sums.unflatten(0, (3, -1))
    each = 1 - (2 * both + 1) / (given + true + 1)
    weight = torch.ones_like(each) if weight is None else weight.to(each)
    return (each * weight).sum() / weight.sum()


class ClassLoss(NamedTuple):
    """A loss as a function `value` of `sums` over points, which add up over batches and processes: dice is no mean."""

    sums: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    value: Callable[[Tensor, Tensor | None], Tensor]


CLASS_LOSSES = {
    "focal": ClassLoss(focal_sums, mean_of),
    "nll": ClassLoss(nll_sums, mean_of),
    "dice": ClassLoss(dice_sums, dice_of),
}


class LossTerms:
    """Terms of CLASS_LOSSES by name with their factors, and the weights (C,) of the classes, or None for 1."""

    def __init__(self, factors: dict[str, float], weight: Tensor | None = None):
        self.factors, self.weight = factors, weight

    def sums(self, logits: Tensor, target: Tensor) -> list[Tensor]:
        """Sums over the points for each term: logits (P, C), target (P,) int64."""
        return [CLASS_LOSSES[name].sums(logits, target, self.weight) for name in self.factors]

    def values(self, sums: list[Tensor]) -> dict[str, Tensor]:
        """The terms by name, without their factors."""
        return {name: CLASS_LOSSES[name].value(s, self.weight) for name, s in zip(self.factors, sums, strict=True)}

    def total(self, sums: list[Tensor]) -> Tensor:
        """The loss."""
        return sum(self.factors[name] * value for name, value in self.values(sums).items())
