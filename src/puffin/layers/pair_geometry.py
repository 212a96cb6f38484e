"""What a layer may ask of the pairs of a batch, however these are stored.

`PackedPairs` stores all pairs of a batch in one table, for training. `DensePairs` stores the pairs of one jet as a
matrix, in plain tensor operations that an exporter can follow. Layers see this interface only.

Shapes: a feature of events is (B, C), of nodes (particles and spurions) (N, C), of pairs (*pairs, C), where *pairs
stands for (P,) if packed and (n, n) if dense. DensePairs has B = 1 and lets features of the event, (1, C), broadcast.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from puffin.ops.embedding import Labels, Power
from puffin.ops.equivariant_nodes import Map, Mapped
from puffin.ops.pair_blocks import Block, BlockOptions
from puffin.ops.pair_messages import PairMessage
from puffin.ops.pairs import Reduced


class PairGeometry(ABC):
    """The nodes and pairs of a batch of events.

    multiplicity (B, 1): the n of means and of (n / nbar)^alpha.  weights (N,): of IRC-safe sums; None means 1.
    """

    multiplicity: Tensor
    weights: Tensor | None

    def stores_half(self, x: Tensor) -> bool:
        """Return whether autocast stores pair features such as x in bfloat16 and leaves all else in float32.

        If not, autocast computes everything in bfloat16, as PyTorch's layers do.
        """
        return False

    # -- nodes and events ---------------------------------------------------------------------------------------------

    @abstractmethod
    def sum_nodes(self, x: Tensor) -> Tensor:
        """Sum over the nodes of each event, without weights: (N, C) -> (B, C)."""

    @abstractmethod
    def extremum_of_nodes(self, x: Tensor, reduction: str) -> Tensor:
        """Find the extremum ("max" or "min") over the nodes of each event: (N, C) -> (B, C)."""

    @abstractmethod
    def to_nodes(self, x: Tensor) -> Tensor:
        """Give each node the feature of its event: (B, C) -> (N, C)."""

    def reduce_nodes(self, x: Tensor, reduction: str) -> Tensor:
        """Reduce the nodes of each event by "sum" (with the weights), "max" or "min": (N, C) -> (B, C)."""
        if reduction == "sum":
            return self.sum_nodes(x if self.weights is None else x * self.weights[:, None])
        return self.extremum_of_nodes(x, reduction)

    def has_node_kernel(self, x: Tensor) -> bool:
        """Return whether `map_nodes` has a compiled kernel for quantities such as x (N, C)."""
        return False

    def map_nodes(
        self,
        quantities: tuple[Tensor, ...],
        normalisation: tuple[Tensor, Tensor] | None,
        coefficients: Tensor,
        alphas: Tensor | None,
        biases: tuple[Tensor, Tensor | None],
        maps: tuple[Map, ...],
        pairs: bool,
        nbar: float,
    ) -> Mapped:
        """Compute all maps of an equivariant layer that depend on one index or none: see `equivariant_nodes`."""
        raise NotImplementedError("only geometries with `has_node_kernel` define this")

    # -- sums and extrema of pairs ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def row_weight(self) -> Tensor:
        """Sum of the weights over the pairs of each row: (N, 1), or (1, 1) if dense."""

    @abstractmethod
    def sums(self, x: Tensor) -> tuple[Tensor, Reduced]:
        """Return x itself and its diagonal, row sums and column sums, (N, C) each.

        Continue with the returned x: its gradient then takes that of the sums along in one pass.
        """

    @abstractmethod
    def extrema(self, x: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
        """Find the extremum ("max" or "min") of every row and column: (*pairs, C) -> two (N, C)."""

    @abstractmethod
    def mean_of_pairs(self, x: Tensor) -> Tensor:
        """Average over the pairs of each event, without weights: (*pairs, C) -> (B, C)."""

    @abstractmethod
    def to_pairs(self, x: Tensor) -> Tensor:
        """Give each pair the feature of its event: (B, C) -> (*pairs, C), or what broadcasts to it."""

    # -- maps to pairs ------------------------------------------------------------------------------------------------

    @abstractmethod
    def expand(self, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """Return u_i + v_j + delta_ij w_i at pair (i, j): three (N, C) -> (*pairs, C)."""

    @abstractmethod
    def mix(
        self,
        x: Tensor,
        even: Tensor,
        odd: Tensor,
        nodes: tuple[Tensor, Tensor, Tensor | None],
        slope: float = 1.0,
    ) -> Tensor:
        """Return (x_ij + x_ji) E + (x_ij - x_ji) O + u_i + v_j + delta_ij w_i, then a leaky ReLU (slope 1: none).

        x (*pairs, C); E, O (C, S); nodes = (u, v, w), each (N, S), w may be None.  Returns (*pairs, S).
        """

    def has_block_kernel(self, x: Tensor) -> bool:
        """Return whether `run_blocks` takes pair features such as x (*pairs, C)."""
        return False

    def run_blocks(self, x: Tensor, blocks: list[Block], options: BlockOptions) -> Tensor:
        """Run all blocks of a network without gradients: see `pair_blocks`."""
        raise NotImplementedError("only geometries with `has_block_kernel` define this")

    # -- each pair on its own -----------------------------------------------------------------------------------------

    @abstractmethod
    def message(self, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> PairMessage:
        """Return leaky(x W^T + b), its mean and variance over all pairs, and its `sums`.

        x (*pairs, C), W (S, C), b (S,).
        """

    # -- symmetric features, x_ij = x_ji ------------------------------------------------------------------------------

    @abstractmethod
    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (N, ...) of node i and of node j of the pairs for which a symmetric feature is computed.

        Packed: the diagonal and the pairs i < j, (N + U, ...) each.  Dense: (n, 1, ...) and (1, n, ...).
        """

    @abstractmethod
    def embed(self, x: Tensor, weight: Tensor, bias: Tensor, power: Power, labels: Labels | None) -> Tensor:
        """Return the signed power of x W^T + b at all pairs, and the label channels beside it: (*pairs, C + L).

        x (..., K): a symmetric feature of the pairs of `ends`; W (C, K), b (C,).  Without gradient of second order.
        """

    @abstractmethod
    def sum_symmetric_rows(self, x: Tensor) -> Tensor:
        """Sum each row of a symmetric feature of the pairs of `ends`, without weights: -> (N, C)."""

    @abstractmethod
    def soft_drop_multiplicity(self, dots: Tensor) -> Tensor:
        """Count soft-drop declusterings (B,) from p_i . p_j of the pairs of `ends`, with one channel."""
