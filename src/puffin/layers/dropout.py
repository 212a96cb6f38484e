"""Dropout for large features on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.normalised import Normalised, as_tensor

_STEPS = 2**16


class PairDropout(nn.Dropout):
    """Drop entries as torch.nn.Dropout does, with cheap random numbers on the CPU: four decisions per 64-bit draw.

    On the CPU the rate is rounded to a multiple of 2^-16, and the remaining entries are divided by exactly
    1 - (rounded rate).
    """

    def forward(self, x: Tensor | Normalised) -> Tensor | Normalised:
        if not self.training or self.p == 0:
            return x
        x, dropped = as_tensor(x), round(self.p * _STEPS)
        if dropped == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        remains = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _STEPS // 2
        factor = _STEPS / (_STEPS - dropped)
        if x.dtype == torch.bfloat16:  # which may not hold the factor: it multiplies the result, and rounds once
            return (x * remains).mul(factor)
        return x * remains.to(x.dtype).mul_(factor)
