"""Normalisations of pair features, by name."""

import torch
from torch import Tensor, nn

from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.pair_geometry import PairGeometry
from puffin.settings.pelican import NORMS as NAMES


class _EventNorm(nn.Module):
    """Normalise within each event, then apply a gain and a bias per channel.

    There are no running statistics, so an event's result does not depend on its batch-mates.
    """

    over_channels: bool

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor, geometry: PairGeometry) -> Tensor:
        """Normalise x (*pairs, C): same shape, float32 or wider."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = x - geometry.to_pairs(self._mean(x, geometry))
        variance = self._mean(centred.square(), geometry)
        return centred * geometry.to_pairs(torch.rsqrt(variance + self.eps)) * self.weight + self.bias

    def _mean(self, x: Tensor, geometry: PairGeometry) -> Tensor:
        """Average over the pairs of each event, (B, C), or also over the channels, (B, 1)."""
        mean = geometry.mean_of_pairs(x)
        return mean.mean(1, keepdim=True) if self.over_channels else mean


class InstanceNorm(_EventNorm):
    """Normalise with statistics per event and channel, over the event's pairs."""

    over_channels = False


class EventLayerNorm(_EventNorm):
    """Normalise with statistics per event, over its pairs and all channels."""

    over_channels = True


NORMS = {"batch": MaskedBatchNorm, "instance": InstanceNorm, "layer": EventLayerNorm, "none": None}
assert tuple(NORMS) == NAMES  # which are the choices of --batchnorm


def make_norm(name: str, num_features: int, sync: bool = False) -> nn.Module | None:
    """Make the normalisation called `name` for `num_features` channels; None for 'none'."""
    if name not in NORMS:
        raise ValueError(f"batchnorm: expected one of {', '.join(NORMS)}, got {name!r}")
    if name == "none":
        return None
    return MaskedBatchNorm(num_features, sync=sync) if name == "batch" else NORMS[name](num_features)
