"""pelican-lite (PyPI) as a jet classifier, as close to a preset of ours as its constructor allows.

Equal: PELICAN blocks of the same widths (linear, activation, norm, Eq2to2 with factorised coefficients and all 15
maps), leaky ReLU, two spurions with one-hot labels, a list of real pairs instead of padding.
Different, and not configurable: it always aggregates by the plain mean (its multipliers are one number per map and do
not depend on the multiplicity: letter m rather than M); it has RMSNorm instead of batch norm, one more Eq2to2 before
the blocks (from labels and pair masses to the message width), no message layer after them, a single linear Eq2to0 to
the classes instead of an activated one and an MLP, no biases in the aggregators, and ln m^2 of a pair instead of d_ij
with learnable exponents. So it has fewer parameters at the same widths (41k for the 48k preset).
"""

import importlib

import torch
from torch import Tensor, nn

PACKAGE = "pelican"  # the name by which pelican-lite is imported
INSTALL = "pip install pelican-lite==1.1.4   (or: pip install -e '.[bench]')"


class PelicanLite(nn.Module):
    """A classifier of jets into two classes.

    message, equivariant: widths of a block.  spurions (K, 4): put before the particles of each jet.
    """

    def __init__(self, message: int, equivariant: int, spurions: Tensor, blocks: int = 5):
        super().__init__()
        # imported by name: the package is optional, and tools would take `import pelican` for bench/pelican.py, which
        # imports this module
        utils = importlib.import_module(f"{PACKAGE}.utils")
        self.batch_of, self.edge_attr = utils.get_batch_from_ptr, utils.get_edge_attr
        self.edge_index = utils.get_edge_index_from_ptr
        self.register_buffer("spurions", spurions, persistent=False)
        self.network = importlib.import_module(PACKAGE).PELICAN(
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
        """Pack padded jets (B, N, 4): particles (T, 4), spurions first in each jet; labels (T, K + 1); ptr (B + 1,)."""
        extra = len(self.spurions)
        padded = torch.cat([self.spurions.expand(len(fourmomenta), -1, -1), fourmomenta], dim=1)
        real = padded[..., 0] != 0
        real[:, :extra] = True
        kind = torch.arange(padded.shape[1]) + 1
        labels = nn.functional.one_hot(kind.where(kind <= extra, 0)).to(padded).expand(len(padded), -1, -1)
        ptr = nn.functional.pad(real.sum(1).cumsum(0), (1, 0))
        return padded[real], labels[real], ptr

    def forward(self, particles: Tensor, labels: Tensor, ptr: Tensor) -> Tensor:
        """Compute the logits (B, 2) from the outputs of `collate`."""
        edges = self.edge_index(ptr, particles.shape, remove_self_loops=False)
        masses = self.edge_attr(particles, edges)[:, None]
        batch = self.batch_of(ptr)
        return self.network(edges, batch, in_rank2=masses, in_rank1=labels, num_graphs=len(ptr) - 1)
