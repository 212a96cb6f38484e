"""Hand-made observables of jets beside the features that a network finds itself."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from puffin.layers.encoded_numbers import EncodedNumbers
from puffin.layers.masked_batchnorm import MaskedBatchNorm


class QuantileScale(nn.Module):
    """Map each of F numbers to its position among the quantiles of the jets given to `fit_`, 0 to `intervals`.

    Equally many of these jets lie in each interval if their numbers differ, whatever the unit and the tails of an
    observable. The quantiles belong to the weights; they are NaN before `fit_`."""

    knots: Tensor

    def __init__(self, num_inputs: int, intervals: int):
        super().__init__()
        self.intervals = intervals
        self.register_buffer("knots", torch.full((num_inputs, intervals + 1), torch.nan))

    @property
    def is_fitted(self) -> bool:
        """Whether the quantiles are known."""
        return bool(self.knots.isfinite().all())

    def fit_(self, x: Tensor) -> None:
        """Take the quantiles of the numbers x (N, F), N > 0."""
        found = np.quantile(x.cpu().numpy(), np.linspace(0, 1, self.intervals + 1), axis=0)
        self.knots.copy_(torch.from_numpy(found).t())

    def forward(self, x: Tensor) -> Tensor:
        """Compute the positions (R, F) of x (R, F), interpolated linearly; outside of all quantiles 0 or `intervals`.

        Where several quantiles are equal, the position is that of the last."""
        columns = x.t().contiguous()
        below = (torch.searchsorted(self.knots, columns, right=True) - 1).clamp(0, self.intervals - 1)
        low, high = self.knots.gather(1, below), self.knots.gather(1, below + 1)
        tiny = torch.finfo(x.dtype).tiny
        return (below + ((columns - low) / (high - low).clamp_min(tiny)).clamp(0, 1)).t().contiguous()


class ObservableHead(nn.Module):
    """Map observables of jets (B, F), and features (B, C) that a network has found, to class scores (B, K).

    The scores are to be added to those of the network. The last layer starts at zero, so at first they change nothing.
    In training the observables get dropout, and noise that is stronger for fewer labelled jets
    (docs/choose_jet_settings.md). noise: its standard deviation in intervals of quantiles; `fit_` chooses it."""

    drop_rate = 0.5
    noise = 1.0
    last_layer = "out"

    def __init__(self, num_observables: int, num_features: int, num_classes: int, sync_batchnorm: bool = True):
        super().__init__()
        intervals, width = EncodedNumbers.intervals, EncodedNumbers.width
        self.scale = QuantileScale(num_observables, intervals)
        self.encode = EncodedNumbers(num_observables, 0.0, float(intervals), sync_batchnorm)
        self.feature_norm = MaskedBatchNorm(num_features, sync=sync_batchnorm)
        self.joint = nn.Linear(width + num_features, width, bias=False)
        self.joint_norm = MaskedBatchNorm(width, sync=sync_batchnorm)
        self.dropout = nn.Dropout(self.drop_rate)
        self.out = nn.Linear(width, num_classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def fit_(self, observables: Tensor) -> None:
        """Adapt to the labelled training jets (N, F): their number, and their quantiles unless these come from
        pretrained weights."""
        if not self.scale.is_fitted:
            self.scale.fit_(observables)
        self.noise = min(2.0, math.sqrt(4000 / len(observables)))

    def forward(self, observables: Tensor, features: Tensor) -> Tensor:
        """Compute the scores."""
        positions = self.scale(observables)
        if self.training:
            positions = positions + self.noise * torch.randn_like(positions)
        encoded = self.dropout(self.encode(positions))
        found = self.feature_norm(features.to(observables.dtype))
        x = self.joint_norm(self.joint(torch.cat([encoded, found], 1))).relu()
        return self.out(self.dropout(x))
