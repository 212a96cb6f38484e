"""Losses on point clouds: what a masked autoencoder predicts, and the classes of points.

Source: spec/polarmae.md sections 6 and 8; focal: Lin et al., arXiv 1708.02002; dice: Milletari et al., 1606.04797.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers.packed import pad, unpad
from .ops.chamfer import chamfer_distance


def group_chamfer(predicted: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """Chamfer distance between predicted and true groups, mean over the groups; 0 if there are none.

    predicted (M, size, D), of which the first counts (M,) int64 on the CPU count; groups (G, D) one after another."""
    return chamfer_by_group(predicted, groups, counts).sum() / max(len(counts), 1)


def chamfer_by_group(predicted: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """The same of each group: (M,)."""
    predicted = predicted.to(torch.promote_types(predicted.dtype, groups.dtype))
    true, number = pad(groups, counts, predicted.shape[1]), counts.to(groups.device)
    return chamfer_distance(predicted, true.to(predicted.dtype), number, number, reduction="none")


def energy_error(predicted: Tensor, energies: Tensor, counts: Tensor) -> Tensor:
    """Mean squared error over the points of all groups; 0 if there are none.

    predicted (M, size), of which the first counts (M,) int64 on the CPU count; energies (G,) group after group."""
    return energy_by_group(predicted, energies, counts).sum() / max(len(energies), 1)


def energy_by_group(predicted: Tensor, energies: Tensor, counts: Tensor) -> Tensor:
    """The squared errors of each group's points, summed: (M,)."""
    squares = (unpad(predicted, counts).to(energies.dtype) - energies).square()
    group = torch.repeat_interleave(counts).to(squares.device)
    return squares.new_zeros(len(counts)).index_add(0, group, squares)


def nll(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross entropy, weighted by class: logits (P, C), target (P,) int64, weight (C,)."""
    return F.cross_entropy(logits, target, weight)


def focal(logits: Tensor, target: Tensor, weight: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Cross entropy of each point, weighted by class and by (1 - p)^gamma of its class's probability p: the mean.

    logits (P, C), target (P,) int64, weight (C,); 0 if there are no points."""
    log_p = F.log_softmax(logits, 1).gather(1, target[:, None])[:, 0]
    remaining = (-log_p.expm1()).clamp_min(1e-12)  # the slope of 0^gamma is infinite for gamma < 1
    each = -log_p * remaining**gamma
    return (each if weight is None else each * weight[target]).sum() / max(len(target), 1)


def dice(logits: Tensor, target: Tensor, weight: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum(p y) + s) / (sum(p) + sum(y) + s) for each class, averaged with its weight."""
    p = logits.softmax(1)
    y = F.one_hot(target, logits.shape[1]).to(p.dtype)
    each = 1 - (2 * (p * y).sum(0) + smooth) / (p.sum(0) + y.sum(0) + smooth)
    weight = torch.ones_like(each) if weight is None else weight.to(each)
    return (each * weight).sum() / weight.sum()


CLASS_LOSSES = {"focal": focal, "nll": nll, "dice": dice}
