"""Normalised features whose scale and shift are not applied yet."""

from dataclasses import dataclass

import torch
from torch import Tensor

from puffin.ops.pairs import Reduced


@dataclass(frozen=True)
class Normalised:
    """Pair features scale * values + shift, not multiplied out: values (*pairs, C); scale, shift (C,).

    sums: of the values.  Values may be bfloat16, scale and shift are then float32.
    A layer that is linear in its input takes scale and shift into its weights, so that no normalised copy of the
    values is written, stored for the backward pass, or read again.
    """

    values: Tensor
    scale: Tensor
    shift: Tensor
    sums: Reduced

    def tensor(self) -> Tensor:
        """Multiply out: the features (..., C), in the dtype of the values."""
        return torch.addcmul(self.shift, self.values, self.scale).to(self.values.dtype)


def as_tensor(x: Tensor | Normalised) -> Tensor:
    """Return the features, multiplied out if they are `Normalised`."""
    return x.tensor() if isinstance(x, Normalised) else x
