"""The pairs of one jet as a matrix (n, n, C), in plain tensor operations: what export uses."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.layers.pair_geometry import PairGeometry
from puffin.ops.embedding import Labels, Power
from puffin.ops.pair_messages import PairMessage
from puffin.ops.pairs import Reduced
from puffin.ops.signed_power import plain_signed_power


@dataclass(frozen=True)
class DensePairs(PairGeometry):
    """Pairs of one event as a matrix: x[i, j] is the pair (i, j).  No index tables, so any n can be traced.

    multiplicity (1, 1) and weights (n,) or None: see `PairGeometry`.
    """

    multiplicity: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(cls, nodes: Tensor) -> "DensePairs":
        """Make the geometry of nodes (n, C) without weights; n is traced, not read as a number."""
        return cls(torch.ones_like(nodes[:, :1]).sum(0, keepdim=True))

    def sum_nodes(self, x: Tensor) -> Tensor:
        return x.sum(0, keepdim=True)

    def extremum_of_nodes(self, x: Tensor, reduction: str) -> Tensor:
        return _extremum(reduction)(x, 0, keepdim=True)

    def to_nodes(self, x: Tensor) -> Tensor:
        return x

    @property
    def row_weight(self) -> Tensor:
        return self.multiplicity if self.weights is None else self.weights.sum()[None, None]

    def sums(self, x: Tensor) -> tuple[Tensor, Reduced]:
        nodes = torch.arange(x.shape[0], device=x.device)
        rows, columns = x, x
        if self.weights is not None:
            rows, columns = x * self.weights[None, :, None], x * self.weights[:, None, None]
        return x, Reduced(x[nodes, nodes], rows.sum(1), columns.sum(0))

    def extrema(self, x: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
        extremum = _extremum(reduction)
        return extremum(x, 1), extremum(x, 0)

    def mean_of_pairs(self, x: Tensor) -> Tensor:
        return x.mean((0, 1))[None]

    def to_pairs(self, x: Tensor) -> Tensor:
        return x

    def expand(self, u: Tensor, v: Tensor, w: Tensor | None) -> Tensor:
        out = u[:, None] + v[None]
        if w is None:
            return out
        nodes = torch.arange(v.shape[0], device=v.device)
        on_diagonal = (nodes[:, None] == nodes)[:, :, None]
        return out + torch.where(on_diagonal, w[:, None], 0)

    def mix(self, x, even, odd, nodes, slope=1.0) -> Tensor:
        out = x @ (even + odd) + (x @ (even - odd)).transpose(0, 1) + self.expand(*nodes)
        return out if slope == 1 else F.leaky_relu(out, slope)

    def message(self, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> PairMessage:
        values = F.leaky_relu(F.linear(x, weight, bias), slope)
        variance, mean = torch.var_mean(values, (0, 1), correction=0)
        return PairMessage(values, mean, variance, self.sums(values)[1])

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, None], x[None]

    def embed(self, x: Tensor, weight: Tensor, bias: Tensor, power: Power, labels: Labels | None) -> Tensor:
        out = plain_signed_power(F.linear(x, weight, bias), *power)
        return out if labels is None else torch.cat([out, labels.activation(self.expand(*labels[:3]))], -1)

    def sum_symmetric_rows(self, x: Tensor) -> Tensor:
        return x.sum(1)

    def soft_drop_multiplicity(self, dots: Tensor) -> Tensor:
        raise NotImplementedError("soft drop clusters particle by particle, which cannot be traced for any n")


def _extremum(reduction: str):
    return torch.amax if reduction == "max" else torch.amin
