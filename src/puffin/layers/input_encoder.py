"""Learnable compression of invariants, which span many orders of magnitude."""

import torch
from torch import Tensor, nn

from puffin.layers.pair_geometry import PairGeometry
from puffin.ops.embedding import Labels, Power


class InputEncoder(nn.Module):
    """Compress each channel of pair inputs: sign(x) ((1 + |x|)^a - 1) / a with a = 1e-6 + alpha^2, alpha learnable.

    The map is a logarithm for alpha = 0 and linear for alpha = 1.  IRC-safe: ((1e-5 + |x|)^a - 1) / a.
    alpha starts as linspace(0.05, 0.5, C).  Source: docs/MATHEMATICS_PELICAN.md, section 2.
    """

    def __init__(self, num_channels: int, irc_safe: bool = False):
        super().__init__()
        self.irc_safe = irc_safe
        self.rank2_alphas = nn.Parameter(torch.linspace(0.05, 0.5, num_channels))

    def forward(self, x: Tensor, linear: nn.Linear, geometry: PairGeometry, labels: Labels | None = None) -> Tensor:
        """Compress linear(x) of symmetric inputs, and put label channels beside it.

        x (..., K) of the pairs of `geometry.ends`.  Returns (*pairs, C + L).
        """
        exponent = 1e-6 + self.rank2_alphas.square()
        power = Power(exponent, 1e-5 if self.irc_safe else 1.0, not self.irc_safe)
        return geometry.embed(x, linear.weight, linear.bias, power, labels)
