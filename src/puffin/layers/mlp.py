"""Networks that act on each row on its own: MLP on events or particles, MessageNet on pairs."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from puffin.layers.activations import make_activation
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.normalised import Normalised
from puffin.layers.norms import make_norm
from puffin.layers.pair_geometry import PairGeometry


def init_linear(layer: nn.Linear) -> nn.Linear:
    """Initialise the weight with Kaiming's normal distribution (slope 0.01, fan-in); the bias keeps PyTorch's default.

    Source: docs/MATHEMATICS_PELICAN.md, section 6.
    """
    nn.init.kaiming_normal_(layer.weight, a=0.01)
    return layer


class MLP(nn.Module):
    """A linear layer and an activation for each consecutive pair of widths, also after the last layer."""

    def __init__(self, widths: list[int], activation: str):
        super().__init__()
        self.linear = nn.ModuleList(init_linear(nn.Linear(a, b)) for a, b in pairwise(widths))
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., widths[0]) to (..., widths[-1])."""
        for linear in self.linear:
            x = self.activation(linear(x))
        return x


class MessageNet(MLP):
    """An MLP on pair features, then a normalisation of its last width (none if `norm` is 'none')."""

    def __init__(self, widths: list[int], activation: str, norm: str, sync: bool = False):
        super().__init__(widths, activation)
        self.normlayer = make_norm(norm, widths[-1], sync)

    def forward(self, x: Tensor, geometry: PairGeometry) -> Tensor | Normalised:
        """Map x (*pairs, widths[0]) to (*pairs, widths[-1])."""
        if geometry.stores_half(x):
            x = x.bfloat16()
        if not self._is_fusible(x, geometry):
            x = super().forward(x)
            if self.normlayer is None:
                return x
            return self.normlayer(x) if isinstance(self.normlayer, MaskedBatchNorm) else self.normlayer(x, geometry)
        for linear in self.linear[:-1]:
            x = self.activation(linear(x))
        linear, norm, slope = self.linear[-1], self.normlayer, self.activation.negative_slope
        values, mean, variance, sums = geometry.message(x, linear.weight, linear.bias, slope)
        rows = math.prod(values.shape[:-1])
        scale, shift = norm.normaliser(mean, variance, rows) if self.training else norm.affine()
        return Normalised(values, scale, shift, sums)

    @property
    def is_leaky_and_normalised(self) -> bool:
        """Whether the last layer is a leaky ReLU and a batch norm, which `message` computes in one pass."""
        leaky = isinstance(self.activation, nn.LeakyReLU)
        return len(self.linear) > 0 and leaky and isinstance(self.normlayer, MaskedBatchNorm)

    def _is_fusible(self, x: Tensor, geometry: PairGeometry) -> bool:
        allowed = geometry.stores_half(x) or not torch.is_autocast_enabled(x.device.type)
        return allowed and self.is_leaky_and_normalised
