"""The pairs of a batch in one table (P, C), without padding: what training uses."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from puffin.layers.pair_geometry import PairGeometry
from puffin.layers.softdrop import soft_drop_multiplicity
from puffin.ops import library
from puffin.ops.embedding import Labels, Power, pair_embed
from puffin.ops.equivariant_nodes import EventNodes, Mapped, equivariant_nodes
from puffin.ops.pair_blocks import Block, BlockOptions, pair_blocks
from puffin.ops.pair_index import PairIndex
from puffin.ops.pair_messages import PairMessage, pair_message
from puffin.ops.pairs import Reduced, mix_even_odd, pair_expand, pair_extremum, pair_reduce, pair_sums
from puffin.ops.segments import segment_expand, segment_extremum, segment_sum


@dataclass(frozen=True)
class PackedPairs(PairGeometry):
    """Pairs as rows of one (P, C) table, whose layout src/puffin/ops/pairs.py describes.

    index: where the pairs of each event are.  multiplicity (B, 1) and weights (N,) or None: see `PairGeometry`.
    """

    index: PairIndex
    multiplicity: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(cls, index: PairIndex, dtype: torch.dtype) -> "PackedPairs":
        """Make the geometry without weights, whose multiplicity is the number of nodes (at least 1)."""
        return cls(index, index.counts.clamp_min(1)[:, None].to(dtype))

    def stores_half(self, x: Tensor) -> bool:
        return library.autocast_makes_half_tables(x)

    def sum_nodes(self, x: Tensor) -> Tensor:
        return segment_sum(x, self.index.node_ptr)

    def extremum_of_nodes(self, x: Tensor, reduction: str) -> Tensor:
        return segment_extremum(x, self.index.node_ptr, reduction == "max")

    def to_nodes(self, x: Tensor) -> Tensor:
        return segment_expand(x, self.index.node_ptr, self.index.num_nodes)

    def has_node_kernel(self, x: Tensor) -> bool:
        # autocast, where it is still on, computes in half precision
        wide = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        return wide and library.has_cpu_kernel(x)

    def map_nodes(self, quantities, normalisation, coefficients, alphas, biases, maps, pairs, nbar) -> Mapped:
        given = (quantities, normalisation, coefficients, alphas, biases)
        return equivariant_nodes(*given, self._nodes, maps, pairs, nbar)

    @property
    def _nodes(self) -> EventNodes:
        return EventNodes(self.index.node_ptr, self.multiplicity, self.weights)

    @cached_property
    def row_weight(self) -> Tensor:
        if self.weights is None:
            return self.to_nodes(self.index.counts[:, None].to(self.multiplicity.dtype))
        return self.to_nodes(segment_sum(self.weights[:, None], self.index.node_ptr))

    def sums(self, x: Tensor) -> tuple[Tensor, Reduced]:
        return pair_sums(x, self.index, self.weights)

    def extrema(self, x: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
        return pair_extremum(x, self.index, reduction == "max")

    def mean_of_pairs(self, x: Tensor) -> Tensor:
        num_pairs = (self.index.counts * self.index.counts).clamp_min(1)[:, None]
        return segment_sum(pair_reduce(x, self.index).rows, self.index.node_ptr) / num_pairs.to(x.dtype)

    def to_pairs(self, x: Tensor) -> Tensor:
        return x[self.index.event_of_pair]

    def expand(self, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return pair_expand(u, v, w, self.index)

    def mix(self, x, even, odd, nodes, slope=1.0) -> Tensor:
        return mix_even_odd(x, even, odd, nodes, self.index, slope)

    def has_block_kernel(self, x: Tensor) -> bool:
        narrow = torch.is_autocast_enabled(x.device.type) and not self.stores_half(x)
        return not narrow and library.has_kernel(x) and library.has_cpu_kernel(x)

    def run_blocks(self, x: Tensor, blocks: list[Block], options: BlockOptions) -> Tensor:
        x = x.bfloat16() if self.stores_half(x) else x
        with torch.autocast(x.device.type, enabled=False):
            return pair_blocks(x, blocks, options, self._nodes, self.index)

    def message(self, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> PairMessage:
        return pair_message(x, weight, bias, slope, self.index, self.weights)

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = self.index.num_nodes + self.index.num_upper
        return x[self.index.row[:half]], x[self.index.column[:half]]

    def embed(self, x: Tensor, weight: Tensor, bias: Tensor, power: Power, labels: Labels | None) -> Tensor:
        return pair_embed(x, weight, bias, power, labels, self.index)

    def sum_symmetric_rows(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.index.num_nodes, x.shape[1]).index_add_(0, self.index.row, self.index.mirror(x))

    def soft_drop_multiplicity(self, dots: Tensor) -> Tensor:
        return soft_drop_multiplicity(self.index.mirror(dots), self.index)
