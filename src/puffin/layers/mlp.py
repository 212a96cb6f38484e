"""Networks that act on each row alone: MessageNet on pairs, MLP on events or particles."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from puffin.layers.activations import make_activation
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.normalised import Normalised
from puffin.layers.norms import make_norm
from puffin.ops.messages import activated, message
from puffin.ops.pair_index import PairIndex


def init_linear(layer: nn.Linear) -> nn.Linear:
    """Kaiming normal with slope 0.01, fan-in (spec section 6); bias zero-mean as PyTorch leaves it."""
    nn.init.kaiming_normal_(layer.weight, a=0.01)
    return layer


class MLP(nn.Module):
    """Linear and activation for each consecutive pair of widths: the activation follows the last layer too."""

    def __init__(self, widths: list[int], activation: str):
        super().__init__()
        self.linear = nn.ModuleList(init_linear(nn.Linear(a, b)) for a, b in pairwise(widths))
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """x (M, widths[0]) -> (M, widths[-1])."""
        for linear in self.linear:
            x = self.activation(linear(x))
        return x


class MessageNet(MLP):
    """An MLP on pair features followed by a normalisation of its last width (none if `norm` is 'none')."""

    def __init__(self, widths: list[int], activation: str, norm: str, sync: bool = False):
        super().__init__(widths, activation)
        self.normlayer = make_norm(norm, widths[-1], sync)

    def forward(self, x: Tensor, pairs: PairIndex) -> Tensor | Normalised:
        """x (P, widths[0]) -> (P, widths[-1])."""
        if not self._separable(x):
            x = super().forward(x)
            if self.normlayer is None:
                return x
            return self.normlayer(x) if isinstance(self.normlayer, MaskedBatchNorm) else self.normlayer(x, pairs)
        for linear in self.linear[:-1]:
            x = self.activation(linear(x))
        linear, norm, slope = self.linear[-1], self.normlayer, self.activation.negative_slope
        if self.training or torch.is_grad_enabled():
            y, mean, variance = message(x, linear.weight, linear.bias, slope)
            return Normalised(y, *(norm.normaliser(mean, variance, len(y)) if self.training else norm.affine()))
        return Normalised(activated(x, linear.weight, linear.bias, slope), *norm.affine())

    def _separable(self, x: Tensor) -> bool:
        """Whether the last layer is a message and its batch norm a scale and a shift."""
        return (
            len(self.linear) > 0
            and isinstance(self.activation, nn.LeakyReLU)
            and isinstance(self.normlayer, MaskedBatchNorm)
            and not torch.is_autocast_enabled(x.device.type)
        )
