"""The rows at which the pairs of a packed batch are stored; the layout is described in pairs.py."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PairIndex:
    """The index tensors of a packed batch.

    lengths (B,) int64 on the CPU: nodes per event, 0 allowed.  device: that of the features.
    Index tensors are made on first use, without waiting for the device.
    """

    lengths: Tensor
    device: torch.device

    @cached_property
    def num_nodes(self) -> int:
        """N, nodes of the batch."""
        return int(self.lengths.sum())

    @cached_property
    def num_pairs(self) -> int:
        """P, ordered pairs of the batch."""
        return int((self.lengths * self.lengths).sum())

    @cached_property
    def num_upper(self) -> int:
        """U, pairs above the diagonal."""
        return (self.num_pairs - self.num_nodes) // 2

    @cached_property
    def counts(self) -> Tensor:
        """Nodes per event (B,) int64 on the device."""
        return self.lengths.to(self.device, non_blocking=True)

    @cached_property
    def node_ptr(self) -> Tensor:
        """First node of each event (B + 1,)."""
        return F.pad(self.counts.cumsum(0), (1, 0))

    @cached_property
    def upper_ptr(self) -> Tensor:
        """First pair i < j of each event (B + 1,)."""
        return F.pad((self.counts * (self.counts - 1) // 2).cumsum(0), (1, 0))

    @cached_property
    def event_of_node(self) -> Tensor:
        """(N,) event of each node."""
        return torch.repeat_interleave(self.counts, output_size=self.num_nodes)

    @cached_property
    def event_of_pair(self) -> Tensor:
        """(P,) event of each pair."""
        return self.event_of_node[self.row]

    @cached_property
    def _upper(self) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes i and j of the pairs above the diagonal (U,), and the first of these pairs of each node i (N,)."""
        nodes = torch.arange(self.num_nodes, device=self.device)
        later = self.node_ptr[1:][self.event_of_node] - nodes - 1  # nodes of the same event after node i
        start = later.cumsum(0) - later
        row = torch.repeat_interleave(later, output_size=self.num_upper)
        column = torch.arange(self.num_upper, device=self.device) - (start - nodes - 1)[row]
        return row, column, start

    @cached_property
    def row(self) -> Tensor:
        """(P,) node i of each pair (i, j)."""
        return torch.cat([torch.arange(self.num_nodes, device=self.device), self._upper[0], self._upper[1]])

    @cached_property
    def column(self) -> Tensor:
        """(P,) node j of each pair (i, j)."""
        return torch.cat([torch.arange(self.num_nodes, device=self.device), self._upper[1], self._upper[0]])

    @cached_property
    def rows_then_columns(self) -> tuple[Tensor, Tensor]:
        """Bags that sum the rows, then the columns: positions (2P,) and first entry of each bag (2N + 1,)."""
        per_node = self.counts[self.event_of_node]
        ptr = F.pad(per_node.cumsum(0), (1, 0))
        i = torch.repeat_interleave(per_node, output_size=self.num_pairs)
        j = torch.arange(self.num_pairs, device=self.device) - (ptr[:-1] - self.node_ptr[self.event_of_node])[i]
        start = self._upper[2] - torch.arange(self.num_nodes, device=self.device) - 1
        first, second = torch.minimum(i, j), torch.maximum(i, j)
        above = start[first] + second + self.num_nodes
        row = torch.where(i < j, above, above + self.num_upper)
        column = torch.where(i < j, above + self.num_upper, above)
        diagonal = i == j
        positions = torch.cat([torch.where(diagonal, i, row), torch.where(diagonal, i, column)])
        return positions, torch.cat([ptr, ptr[1:] + self.num_pairs])

    @cached_property
    def row_and_column(self) -> tuple[Tensor, Tensor]:
        """Bags that gather u_i and v_j for each pair from stacked [u; v]: (2P,) and (P + 1,)."""
        nodes = torch.stack([self.row, self.column + self.num_nodes], 1).flatten()
        return nodes, torch.arange(0, 2 * self.num_pairs + 1, 2, device=self.device)

    def blocks(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of the diagonal, the upper and the lower pairs of x (P, C)."""
        return x.split((self.num_nodes, self.num_upper, self.num_upper))

    def mirror(self, x: Tensor) -> Tensor:
        """Return a symmetric feature (P, C) from its diagonal and upper pairs (N + U, C)."""
        return torch.cat([x, x[self.num_nodes :]])
