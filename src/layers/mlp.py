"""Networks that act on each row alone: MessageNet on pairs, MLP on events or particles."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..ops import messages
from ..ops.pair_index import PairIndex
from .activations import make_activation
from .masked_batchnorm import MaskedBatchNorm
from .norms import make_norm


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

    def forward(self, x: Tensor, pairs: PairIndex) -> Tensor:
        """x (P, widths[0]) -> (P, widths[-1])."""
        if self._fusible(x):
            for linear in self.linear[:-1]:
                x = self.activation(linear(x))
            return self._fused(x)
        x = super().forward(x)
        if self.normlayer is None:
            return x
        return self.normlayer(x) if isinstance(self.normlayer, MaskedBatchNorm) else self.normlayer(x, pairs)

    def _fusible(self, x: Tensor) -> bool:
        """Whether the last linear layer, its activation and the statistics of the norm are one kernel."""
        return (
            len(self.linear) > 0
            and isinstance(self.activation, nn.LeakyReLU)
            and isinstance(self.normlayer, MaskedBatchNorm)
            and (self.normlayer.takes_own_statistics(len(x)) if self.training else not torch.is_grad_enabled())
            and messages.compiled(x)
        )

    def _fused(self, x: Tensor) -> Tensor:
        linear, norm, slope = self.linear[-1], self.normlayer, self.activation.negative_slope
        if not self.training:
            return messages.message_affine(x, linear.weight, linear.bias, *norm.affine(), slope)
        out = messages.message_norm(x, linear.weight, linear.bias, norm.weight, norm.bias, slope, norm.eps)
        norm.track_(out.mean, out.variance, len(x))
        return out.values
