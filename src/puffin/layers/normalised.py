"""Normalised features whose normalisation is left to whoever reads them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalised:
    """scale * values + shift, not multiplied out: values (M, C); scale, shift (C,).

    A layer that is linear in its input takes scale and shift into its weights, so that no normalised copy of the
    values is written, kept for the backward pass, or read again.
    """

    values: Tensor
    scale: Tensor
    shift: Tensor

    def tensor(self) -> Tensor:
        """The features themselves (M, C)."""
        return torch.addcmul(self.shift, self.values, self.scale)


def as_tensor(x: Tensor | Normalised) -> Tensor:
    """The features, multiplied out if they are not."""
    return x.tensor() if isinstance(x, Normalised) else x
