"""Normalisations of pair features (P, C), by name."""

import torch
from torch import Tensor, nn

from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.ops.pair_index import PairIndex
from puffin.ops.pairs import pair_reduce
from puffin.ops.segments import segment_sum
from puffin.settings.pelican import NORMS as NAMES


class _EventNorm(nn.Module):
    """Normalise within each event, then a gain and a bias per channel.  No running statistics: nothing depends on batch-mates."""

    over_channels: bool

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor, pairs: PairIndex) -> Tensor:
        """x (P, C) -> (P, C), in float32 at least."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        event = pairs.event_of_pair
        rows = (pairs.counts * pairs.counts).clamp_min(1)[:, None].to(x.dtype)

        def mean_over_event(values: Tensor) -> Tensor:
            mean = segment_sum(pair_reduce(values, pairs).rows, pairs.node_ptr) / rows
            return mean.mean(1, keepdim=True) if self.over_channels else mean

        centred = x - mean_over_event(x)[event]
        var = mean_over_event(centred.square())
        return centred * torch.rsqrt(var + self.eps)[event] * self.weight + self.bias


class InstanceNorm(_EventNorm):
    """Statistics per event and channel, over the event's pairs."""

    over_channels = False


class EventLayerNorm(_EventNorm):
    """Statistics per event, over its pairs and all channels."""

    over_channels = True


NORMS = {"batch": MaskedBatchNorm, "instance": InstanceNorm, "layer": EventLayerNorm, "none": None}
assert tuple(NORMS) == NAMES  # which are the choices of --batchnorm


def make_norm(name: str, num_features: int, sync: bool = False) -> nn.Module | None:
    """The normalisation called `name` for `num_features` channels, or None for 'none'."""
    if name not in NORMS:
        raise ValueError(f"batchnorm: expected one of {', '.join(NORMS)}, got {name!r}")
    if name == "none":
        return None
    return MaskedBatchNorm(num_features, sync=sync) if name == "batch" else NORMS[name](num_features)
