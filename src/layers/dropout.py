"""Dropout for large features on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 2**16


class PairDropout(nn.Dropout):
    """Like torch.nn.Dropout, with cheap random numbers on the CPU: four decisions from each 64-bit draw.

    There the rate is rounded to a multiple of 2^-16, and what is kept is divided by exactly what is left of 1."""

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * _STEPS)
        if not self.training or dropped == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _STEPS // 2
        return x * kept.to(x.dtype).mul_(_STEPS / (_STEPS - dropped))
