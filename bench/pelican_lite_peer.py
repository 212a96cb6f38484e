"""pelican-lite (PyPI) as a jet classifier, set as near to a preset of ours as its constructor allows.

The same: PELICAN blocks of the same widths (linear, activation, norm, Eq2to2 with factorised coefficients and all 15
maps), leaky ReLU, two spurions with one-hot labels, a list of real pairs instead of padding.
Not the same, and not to be had: it always aggregates by the plain mean (its multipliers are one number per map and do
not depend on the multiplicity, letter m rather than M), RMSNorm instead of batch norm, one Eq2to2 more in front of the
blocks (labels and pair masses to the message width), no message layer behind them, a single linear Eq2to0 to the
classes instead of an activated one and an MLP, no biases in the aggregators, ln m^2 of a pair instead of d_ij with
learnable exponents. So it has fewer parameters at the same widths (41k for the 48k preset).
"""

import torch
from torch import Tensor, nn

INSTALL = "pip install pelican-lite==1.1.4   (or: pip install -e '.[bench]')"


class PelicanLite(nn.Module):
    """message, equivariant: widths of a block; spurions (K, 4), put in front of each jet."""

    def __init__(self, message: int, equivariant: int, spurions: Tensor, blocks: int = 5):
        super().__init__()
        from pelican import PELICAN  # optional, so not at the top
        from pelican.utils import get_batch_from_ptr, get_edge_attr, get_edge_index_from_ptr

        self.batch_of, self.edge_attr, self.edge_index = get_batch_from_ptr, get_edge_attr, get_edge_index_from_ptr
        self.register_buffer("spurions", spurions, persistent=False)
        self.network = PELICAN(
            in_channels_rank2=1,
            in_channels_rank1=1 + len(spurions),
            in_channels_rank0=0,
            out_rank=0,
            out_channels=2,
            num_blocks=blocks,
            hidden_channels=message,
            increase_hidden_channels=(equivariant + 0.5) / message,  # the library rounds down
            map_multipliers=True,
            factorize=True,
            activation="leaky_relu",
            aggr="mean",
        )

    def collate(self, fourmomenta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Padded jets (B, N, 4) -> particles (T, 4), spurions first in each jet; labels (T, K + 1); ptr (B + 1,)."""
        extra = len(self.spurions)
        padded = torch.cat([self.spurions.expand(len(fourmomenta), -1, -1), fourmomenta], dim=1)
        real = padded[..., 0] != 0
        real[:, :extra] = True
        kind = torch.arange(padded.shape[1]) + 1
        labels = nn.functional.one_hot(kind.where(kind <= extra, 0)).to(padded).expand(len(padded), -1, -1)
        ptr = nn.functional.pad(real.sum(1).cumsum(0), (1, 0))
        return padded[real], labels[real], ptr

    def forward(self, particles: Tensor, labels: Tensor, ptr: Tensor) -> Tensor:
        """-> logits (B, 2)"""
        edges = self.edge_index(ptr, particles.shape, remove_self_loops=False)
        masses = self.edge_attr(particles, edges)[:, None]
        batch = self.batch_of(ptr)
        return self.network(edges, batch, in_rank2=masses, in_rank1=labels, num_graphs=len(ptr) - 1)
