"""Losses on point clouds: of the tokens that a masked autoencoder reconstructs, and of the classes of points.

Source: docs/MATHEMATICS_CLOUDS.md, sections 6 and 8; focal: Lin et al., arXiv 1708.02002; dice: Milletari et al.,
arXiv 1606.04797.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.layers.packed import pad, to_device, unpad
from puffin.ops.chamfer import chamfer_distance
from puffin.settings import names


def chamfer_by_group(predicted: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """Compute the chamfer distance between each predicted group of points and the true one, (M,).

    predicted (M, size, D), of which the first counts[k] rows of group k are used; counts (M,) int64 on the CPU;
    groups (G, D): the true points, group after group."""
    predicted = predicted.to(torch.promote_types(predicted.dtype, groups.dtype))
    true, sizes = pad(groups, counts, predicted.shape[1]), to_device(counts, groups.device)
    return chamfer_distance(predicted, true.to(predicted.dtype), sizes, sizes, reduction="none")


def energy_by_group(predicted: Tensor, energies: Tensor, counts: Tensor) -> Tensor:
    """Sum the squared errors of the energies of each group's points, (M,).

    predicted (M, size), of which the first counts[k] numbers of group k are used; counts (M,) int64 on the CPU;
    energies (G,): the true ones, group after group."""
    squares = (unpad(predicted, counts).to(energies.dtype) - energies).square()
    group = to_device(torch.repeat_interleave(counts), squares.device)
    return squares.new_zeros(len(counts)).index_add(0, group, squares)


def occupancy_by_voxel(logits: Tensor, occupied: Tensor) -> Tensor:
    """Average the binary cross entropy over the 8 octants of each voxel, (M,); logits, occupied bool (M, 8)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(logits, occupied.to(logits.dtype), reduction="none").mean(1)


def nll_sums(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum the cross entropy over the points, and their weights: (2,).

    logits (P, C); target: classes (P,) int64, or probabilities of the classes (P, C); weight (C,): weights of the
    classes, or None for 1."""
    weight = logits.new_ones(logits.shape[1]) if weight is None else weight.to(logits)
    each = F.cross_entropy(logits, target, weight, reduction="none")
    return torch.stack([each.sum(), _of_target(weight.expand_as(logits), target).sum()])


def focal_sums(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum the focal loss over the points, and count them: (2,).

    The focal loss is the cross entropy times (1 - p)^2, with p the predicted probability of the true class, and times
    the weight of the class. Arguments as for `nll_sums`."""
    log_p = F.log_softmax(logits, 1)
    by_class = -log_p * log_p.expm1().square()
    each = _of_target(by_class if weight is None else by_class * weight.to(by_class), target)
    return torch.stack([each.sum(), each.new_full((), len(target))])


def _of_target(by_class: Tensor, target: Tensor) -> Tensor:
    """Return the number of the true class from by_class (P, C), or the mean over the probabilities of the classes."""
    return (by_class * target).sum(1) if target.is_floating_point() else by_class.gather(1, target[:, None])[:, 0]


def mean_of(sums: Tensor, weight: Tensor | None = None) -> Tensor:
    """Divide a sum by the number or weight of its terms, sums (2,); 0 if there are none. weight is not used."""
    return sums[0] / sums[1].clamp_min(torch.finfo(sums.dtype).tiny)


def dice_sums(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum p y, p and y over the points for each class, (3 C,): p predicted probabilities, y true ones, 0 or 1.

    Arguments as for `nll_sums`; weight is not used, as `dice_of` weights the classes."""
    p = logits.softmax(1)
    y = target if target.is_floating_point() else F.one_hot(target, logits.shape[1]).to(p.dtype)
    return torch.cat([(p * y).sum(0), p.sum(0), y.sum(0)])


def dice_of(sums: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average 1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1) over the classes, with their weights (C,)."""
    both, predicted, true = sums.unflatten(0, (3, -1))
    each = 1 - (2 * both + 1) / (predicted + true + 1)
    weight = torch.ones_like(each) if weight is None else weight.to(each)
    return (each * weight).sum() / weight.sum()


class ClassLoss(NamedTuple):
    """A loss that is computed as value(sums, weight) from sums over points, sums(logits, target, weight).

    The sums can be added up over batches and processes. The dice loss itself cannot, as it is no mean over points."""

    sums: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    value: Callable[[Tensor, Tensor | None], Tensor]


CLASS_LOSSES = {
    "focal": ClassLoss(focal_sums, mean_of),
    "nll": ClassLoss(nll_sums, mean_of),
    "dice": ClassLoss(dice_sums, dice_of),
}
assert tuple(CLASS_LOSSES) == tuple(names.CLASS_LOSSES)


class LossTerms:
    """A weighted sum of CLASS_LOSSES.

    factors: name -> factor; weight: weights (C,) of the classes, or None for 1."""

    def __init__(self, factors: dict[str, float], weight: Tensor | None = None):
        self.factors, self.weight = factors, weight

    def sums(self, logits: Tensor, target: Tensor) -> list[Tensor]:
        """Sum each term over the points: logits (P, C); target: classes (P,) int64 or their probabilities (P, C)."""
        return [CLASS_LOSSES[name].sums(logits, target, self.weight) for name in self.factors]

    def values(self, sums: list[Tensor]) -> dict[str, Tensor]:
        """Return the terms by name, without their factors."""
        return {name: CLASS_LOSSES[name].value(s, self.weight) for name, s in zip(self.factors, sums, strict=True)}

    def total(self, sums: list[Tensor]) -> Tensor:
        """Return the loss: the sum of factor times term."""
        return sum(self.factors[name] * value for name, value in self.values(sums).items())
