"""Linear permutation-equivariant layers between ranks: Eq1to2, Eq2to2, Eq2to1, Eq2to0.

The 15 maps of Eq2to2 are never built.  All but the first two depend on one index or none, so that the layer is two
(P, C) x (C, S) products and a few small ones on nodes (equivariant_maps.py).
Source: docs/MATHEMATICS_PELICAN.md, section 3; arXiv 2211.00454, sec. 3; Maron et al., arXiv 1812.09902.
"""

import torch
from torch import Tensor, nn

from puffin.layers.equivariant_maps import Aggregator, AggregatorOptions
from puffin.layers.normalised import Normalised, as_tensor
from puffin.layers.pair_geometry import PairGeometry
from puffin.ops.embedding import Labels, slope_of
from puffin.ops.equivariant_nodes import Mapped
from puffin.settings.letters import all_linear


class _FromPairs(Aggregator):
    """Aggregators whose input is a pair feature."""

    activates_pairs = False  # whether activate_agg also acts on the pairs themselves

    def forward(self, x: Tensor | Normalised, geometry: PairGeometry) -> Tensor:
        """Aggregate x (*pairs, in); under autocast only pair features may become bfloat16, see `stores_half`."""
        values = x.values if isinstance(x, Normalised) else x
        if not geometry.stores_half(values):
            return self.aggregate(x, geometry)
        with torch.autocast(values.device.type, enabled=False):
            return self.aggregate(x if isinstance(x, Normalised) else x.bfloat16(), geometry)

    def aggregate(self, x: Tensor | Normalised, geometry: PairGeometry) -> Tensor:
        """Compute the layer."""
        raise AssertionError("each layer defines its own")

    def read(self, x: Tensor | Normalised, geometry: PairGeometry) -> tuple[Tensor, Mapped]:
        """Return the pairs as the layer mixes them, and all that comes from their sums."""
        linear = all_linear(self.options.config) and not (self.activates_pairs and self.options.activate_agg)
        if isinstance(x, Normalised) and linear:
            return x.values, self.map_nodes(x.sums, geometry, x.values, (x.scale, x.shift))
        values, sums = geometry.sums(as_tensor(x))
        return values, self.map_nodes(sums, geometry, values)

    def base(self, quantities, pairs, geometry):
        diagonal, rows, columns = quantities
        return {"pairs": pairs, "diagonal": diagonal, "row sums": rows, "column sums": columns}

    def reduced(self, reduction, base, geometry):
        if reduction == "sum":
            rows, columns = base["row sums"], base["column sums"]
        else:
            rows, columns = (x.to(base["diagonal"].dtype) for x in geometry.extrema(base["pairs"], reduction))
        return {
            "rows": rows,
            "columns": columns,
            "trace": geometry.reduce_nodes(base["diagonal"], reduction),
            "total": geometry.reduce_nodes(rows, reduction),
        }


class Eq2to2(_FromPairs):
    """Map pairs to pairs: x (*pairs, in) -> (*pairs, out)."""

    first_table_map = 2  # T_ij and T_ji
    activates_pairs = True
    plain = (("w", "diagonal"), ("v", "diagonal"), ("u", "diagonal"))
    summed = (
        ("w", "columns"),
        ("v", "columns"),
        ("u", "columns"),
        ("w", "rows"),
        ("v", "rows"),
        ("u", "rows"),
        ("u", "trace"),
        ("w", "trace"),
        ("u", "total"),
        ("w", "total"),
    )
    scale_plain = False
    random_alphas = True
    alpha_tail = (1, 1)

    def __init__(self, in_channels: int, out_channels: int, options: AggregatorOptions):
        super().__init__(in_channels, out_channels, options)
        if options.diagonal:
            self.diag_bias = nn.Parameter(torch.zeros(out_channels))

    def aggregate(self, x: Tensor | Normalised, geometry: PairGeometry) -> Tensor:
        values, maps = self.read(x, geometry)
        slope = slope_of(self.activate_lin)
        uvw = (maps.u, maps.v, maps.w)
        out = geometry.mix(self.activate_agg(values), maps.even, maps.odd, uvw, 1.0 if slope is None else slope)
        return self.activate_lin(out) if slope is None else out


class Eq2to1(_FromPairs):
    """Map pairs to nodes: x (*pairs, in) -> (N, out)."""

    plain = (("u", "diagonal"),)
    summed = (("u", "rows"), ("u", "columns"), ("u", "trace"), ("u", "total"))
    alpha_tail = (1,)

    def aggregate(self, x: Tensor | Normalised, geometry: PairGeometry) -> Tensor:
        return self.activate_lin(self.read(x, geometry)[1].u)


class Eq2to0(_FromPairs):
    """Map pairs to events: x (*pairs, in) -> (B, out)."""

    plain = ()
    summed = (("u", "total"), ("u", "trace"))
    random_alphas = True
    coefficient_gain = 4.0

    def __init__(self, in_channels: int, out_channels: int, options: AggregatorOptions):
        super().__init__(in_channels, out_channels, options)
        self.bias = nn.Parameter(torch.zeros(1, out_channels))  # the published shape

    def aggregate(self, x: Tensor | Normalised, geometry: PairGeometry) -> Tensor:
        return self.activate_lin(self.read(x, geometry)[1].u)


class Eq1to2(Aggregator):
    """Map nodes to label channels of pairs, which the embedding writes: x (N, in) -> three (N, out), activation."""

    plain = (("w", "value"), ("v", "value"), ("u", "value"))
    summed = (("w", "aggregate"), ("u", "aggregate"))
    alpha_tail = (1, 1)

    def base(self, quantities, pairs, geometry):
        return {"value": quantities[0]}

    def reduced(self, reduction, base, geometry):
        return {"aggregate": geometry.reduce_nodes(base["value"], reduction)}

    def forward(self, x: Tensor, geometry: PairGeometry) -> Labels:
        maps = self.map_nodes((x,), geometry)
        return Labels(maps.u, maps.v, maps.w, self.activate_lin)
