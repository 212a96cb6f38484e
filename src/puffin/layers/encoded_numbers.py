"""Encode numbers piecewise linearly, so that a network finds thresholds as fast as boosted trees do."""

import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.ops.piecewise_linear import piecewise_linear


class EncodedNumbers(nn.Module):
    """Map numbers (R, F) from low to high to features (R, width): a sum of piecewise linear functions, one of each
    number with evenly spaced knots, then a second layer.

    Source: piecewise linear encoding, Gorishniy et al., arXiv 2203.05556, sec. 3.2.
    """

    width, intervals = 64, 12

    def __init__(self, num_inputs: int, low: float, high: float, sync_batchnorm: bool = True):
        super().__init__()
        self.num_inputs, self.low, self.high = num_inputs, low, high
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for width in (num_inputs * self.intervals, self.width):
            self.layers.append(nn.Linear(width, self.width, bias=False))
            self.norms.append(MaskedBatchNorm(self.width, sync=sync_batchnorm))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features."""
        x = self.norms[0](self.thresholds(x)).relu()
        return self.norms[1](self.layers[1](x)).relu()

    def thresholds(self, x: Tensor) -> Tensor:
        """Map the numbers to (R, width): the weights of the first layer are the rises of each function over its
        intervals."""
        rises = self.get_parameter("layers.0.weight").t().reshape(self.num_inputs, self.intervals, self.width)
        values = F.pad(rises.cumsum(1), (0, 0, 1, 0))  # at the knots, 0 at the first
        return piecewise_linear(x, values, self.low, self.high)
