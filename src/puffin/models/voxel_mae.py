"""A masked autoencoder of voxels: hide blocks of an event, predict which voxels they hold, and their energies.

Source: masked autoencoders that encode only what is visible, arXiv 2111.06377; occupancy of masked voxels as target,
arXiv 2206.09900; hierarchical sparse networks for it, arXiv 2212.03010.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from puffin.layers.blocks import Blocks, split_into_blocks
from puffin.layers.packed import to_device
from puffin.layers.voxels import Voxels, voxelise
from puffin.losses.clouds import occupancy_by_voxel
from puffin.models.point_mae import MaskedAutoencoder, PointMAE, check_mask
from puffin.models.unet import VoxelFeatures
from puffin.ops.segments import segment_of_row
from puffin.settings.clouds import PointMAEConfig


def levels_of_terms(mask_level: int) -> dict[str, int]:
    """Return the level of the hidden voxels that each term of the loss is a mean over."""
    return {f"occupancy_{2 ** (k - 1)}": k for k in range(mask_level, 0, -1)} | {"energy": 0}


def _hidden_column(level: int) -> str:
    return f"hidden_{2**level}"


class VoxelReconstruction(NamedTuple):
    """The prediction for the masked ones among `blocks`; masked (T,) bool on the CPU.

    voxels: all voxels of the events, which are the truth.  hidden[k] (M_k,) int64: rows of the hidden voxels of level
    k, from 0 to the level of the blocks.  occupancy[k] (M_(k + 1), 8): logits that the 8 octants of the hidden voxels
    of level k + 1 are voxels of level k.  energy (M_0,): predicted scaled energies of the hidden voxels.
    """

    blocks: Blocks
    masked: Tensor
    voxels: Voxels
    hidden: list[Tensor]
    occupancy: list[Tensor]
    energy: Tensor

    def occupied(self, k: int) -> Tensor:
        """Return the truth for occupancy[k], (M_(k + 1), 8) bool."""
        return self.voxels.pyramid.coarser[k].forward[self.hidden[k + 1]] >= 0

    @property
    def true_energy(self) -> Tensor:
        """The mean scaled energy of the points of each hidden voxel, (M_0,)."""
        return self.voxels.mean(self.blocks.points[:, 3:4])[self.hidden[0], 0]

    def errors(self) -> dict[str, Tensor]:
        """Return the errors of each term, one of each hidden voxel of its level.

        `occupancy_E`, where E is the edge of the predicted voxels: the cross entropy, averaged over the 8 octants.
        `energy`: the squared error of the scaled energy.
        """
        coarse_first = reversed(list(enumerate(self.occupancy)))
        terms = {f"occupancy_{2**k}": occupancy_by_voxel(x, self.occupied(k)) for k, x in coarse_first}
        true = self.true_energy
        return terms | {"energy": (self.energy.to(true.dtype) - true).square()}

    def sums(self) -> dict[str, Tensor]:
        """Return each term as (2,): the sum of the errors, and their number. Both add up over batches and processes."""
        return {name: torch.stack([e.sum(), e.new_full((), len(e))]) for name, e in self.errors().items()}

    def by_event(self) -> dict[str, Tensor]:
        """Count the hidden voxels of each event and add up their errors: columns (B,) float32.

        hidden_E: voxels with an edge of E voxels, the blocks among them; <term>_sum: of each term."""
        pyramid, number = self.voxels.pyramid, len(self.blocks.lengths)
        event = [
            segment_of_row(ptr, len(table.forward))[rows]
            for ptr, table, rows in zip(pyramid.ptr, pyramid.neighbours, self.hidden, strict=False)
        ]
        columns = {_hidden_column(k): torch.bincount(rows, minlength=number) for k, rows in enumerate(event)}
        levels = levels_of_terms(len(self.occupancy))
        for name, errors in self.errors().items():
            columns[f"{name}_sum"] = errors.new_zeros(number).index_add(0, event[levels[name]], errors.detach())
        return {name: value.float() for name, value in columns.items()}


class VoxelMAE(MaskedAutoencoder, VoxelFeatures):
    """Hide most blocks of an event from a U-Net, and predict their voxels from coarse to fine.

    The way down computes at visible voxels only, so no feature there depends on hidden points. The way up computes at
    all voxels; where nothing is visible, a learned token of the level stands for the features of the way down. At the
    level of the blocks the network thus learns which blocks are hidden; at each finer level the true voxels are given,
    whatever was predicted (teacher forcing). `backbone` and `geometry` are those of `VoxelSegmentation`.
    """

    def __init__(self, config: PointMAEConfig):
        super().__init__(config)
        self.config = config
        widths = config.unet.widths
        self.mask_tokens = nn.ParameterList([nn.init.trunc_normal_(torch.empty(w), std=0.02) for w in widths])
        self.occupancy = nn.ModuleList([nn.Linear(width, 8) for width in widths[1 : config.mask_level + 1]])
        self.energy = nn.Linear(widths[0], 1)

    @property
    def terms(self) -> dict[str, str]:
        """Name of each term of the loss, and of the column that counts what it is a mean over."""
        return {name: _hidden_column(level) for name, level in levels_of_terms(self.config.mask_level).items()}

    def parts(self, points: Tensor, lengths: Tensor) -> Blocks:
        """Split points (P, 4) into the blocks that can be hidden; lengths (B,) int64 on the CPU."""
        return split_into_blocks(points, lengths, self.config.mask_level)

    def reconstruct(self, parts: Blocks, masked: Tensor) -> VoxelReconstruction:
        """Predict the voxels of the masked blocks; masked (T,) bool on the CPU.  Raises ValueError for another mask."""
        check_mask(masked, len(parts))
        visible, levels = parts.select(~masked), self.config.unet.unet_levels
        seen, every = (voxelise(blocks.points, blocks.point_lengths, levels) for blocks in (visible, parts))
        inputs = seen.mean(self.inputs(visible.points, visible.point_lengths))
        is_visible = _visible_voxels(every, masked.repeat_interleave(parts.counts))
        found = [
            token.to(x.dtype).expand(len(at), -1).index_copy(0, at.nonzero()[:, 0], x)
            for token, x, at in zip(
                self.mask_tokens, self.backbone.descend(inputs, seen.pyramid), is_visible, strict=True
            )
        ]
        hidden = [(~at).nonzero()[:, 0] for at in is_visible[: self.config.mask_level + 1]]
        # the features of the hidden voxels, the finest level first
        features = list(self.backbone.ascend(found, every.pyramid))[::-1]
        at_hidden = [x[rows] for x, rows in zip(features, hidden, strict=False)]
        occupancy = [head(x) for head, x in zip(self.occupancy, at_hidden[1:], strict=True)]
        return VoxelReconstruction(parts, masked, every, hidden, occupancy, self.energy(at_hidden[0])[:, 0])


def _visible_voxels(voxels: Voxels, masked: Tensor) -> list[Tensor]:
    """Return which voxels of each level hold visible points, (V_k,) bool; masked (P,) bool of points, on the CPU."""
    sorted_points = ~to_device(masked, voxels.order.device)[voxels.order]
    found = [sorted_points[voxels.ptr[:-1]]]  # the points of a voxel are in one block
    for table in voxels.pyramid.coarser:
        children = table.forward
        found.append(((children >= 0) & found[-1][children.clamp_min(0)]).any(1))
    return found


def masked_autoencoder(config: PointMAEConfig) -> PointMAE | VoxelMAE:
    """Make the network of these settings, with random weights."""
    return VoxelMAE(config) if config.backbone == "unet" else PointMAE(config)
