"""--class-weights of all scripts: from text to numbers, and from counted events or points to numbers."""

import torch
from torch import Tensor

from puffin.errors import InputError
from puffin.settings.types import class_weights


def weights_of_classes(text: str, num_classes: int) -> Tensor | None:
    """Return the numbers of --class-weights, (K,) float64; None for the word none."""
    numbers = class_weights(text, ("none",))
    if numbers is None:
        return None
    if len(numbers) != num_classes:
        raise InputError(f"--class-weights: expected {num_classes} numbers, one for each class, got {len(numbers)}")
    return torch.tensor(numbers, dtype=torch.float64)


def inverse_fractions(counts: Tensor, factor: int = 1) -> Tensor:
    """Return the sum of the counts divided by `factor` times each of them, (K,) float64; 0 for a class with count 0."""
    counts = counts.double()
    return torch.where(counts > 0, counts.sum() / (factor * counts.clamp_min(1)), 0)
