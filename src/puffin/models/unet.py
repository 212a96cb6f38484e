"""A hierarchical network on the voxels of an event: a U-Net of sparse convolutions.

Source: SparseConvNet, arXiv 1711.10275, sec. 4; MinkowskiUNet, arXiv 1904.08755, sec. 4; residual blocks 1512.03385.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from puffin.layers.geometry_inputs import GeometryInputs
from puffin.layers.voxels import ConvNorm, Pyramid, ResidualBlocks, voxelise
from puffin.settings.clouds import BackboneConfig
from puffin.settings.unet import UNetConfig


class SparseUNet(nn.Module):
    """Map features of points to features of points, through voxels of 1, 2, 4, ... voxel edges.

    On the way down each level has residual blocks and a strided convolution to the next; on the way up a transposed
    convolution brings the features back to the finer voxels, which keep those of the way down beside them.
    """

    def __init__(self, channels_in: int, config: UNetConfig, sync_batchnorm: bool = True):
        super().__init__()
        self.config = config
        widths, blocks, sync = config.widths, config.unet_blocks, sync_batchnorm
        self.stem = ConvNorm(channels_in, widths[0], 27, sync)
        self.down = nn.ModuleList([ResidualBlocks(width, width, blocks, sync) for width in widths])
        self.coarsen = nn.ModuleList([ConvNorm(fine, coarse, 8, sync) for fine, coarse in pairwise(widths)])
        self.refine = nn.ModuleList([ConvNorm(coarse, fine, 8, sync) for fine, coarse in pairwise(widths)])
        self.up = nn.ModuleList([ResidualBlocks(2 * width, width, blocks, sync) for width in widths[:-1]])

    @property
    def channels_out(self) -> int:
        """Width of a point's features."""
        return self.config.widths[0]

    def forward(self, points: Tensor, lengths: Tensor, features: Tensor) -> Tensor:
        """Map features (P, channels_in) of points (P, 3 or more) to (P, channels_out); lengths (B,) on the CPU.

        Several points in one voxel share its features, which start from their mean."""
        voxels = voxelise(points, lengths, self.config.unet_levels)
        return voxels.to_points(self.of_voxels(voxels.mean(features), voxels.pyramid))

    def of_voxels(self, x: Tensor, pyramid: Pyramid) -> Tensor:
        """Map features of the finest voxels (V, channels_in) to (V, channels_out)."""
        *_, finest = self.ascend(self.descend(x, pyramid), pyramid)
        return finest

    def descend(self, x: Tensor, pyramid: Pyramid) -> list[Tensor]:
        """Run the way down from features (V, channels_in); return those of each level, the finest first."""
        neighbours = pyramid.neighbours
        found = [self.down[0](self.stem(x, neighbours[0]).relu(), neighbours[0])]
        for k, coarser in enumerate(pyramid.coarser):
            found.append(self.down[k + 1](self.coarsen[k](found[k], coarser).relu(), neighbours[k + 1]))
        return found

    def ascend(self, found: list[Tensor], pyramid: Pyramid) -> Iterator[Tensor]:
        """Run the way up; yield the features of each level, the coarsest first. found: those of the way down."""
        x = found[-1]
        yield x
        for k, coarser in reversed(list(enumerate(pyramid.coarser))):
            x = self.refine[k](x, coarser.reverse()).relu()
            x = self.up[k](torch.cat([x, found[k]], 1), pyramid.neighbours[k])
            yield x


class VoxelFeatures(nn.Module):
    """A U-Net and what it reads of each point: the energy and, on request, hand-made features.

    The hand-made features are also given beside those of the U-Net, `width` channels together.
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        sync = config.encoder.sync_batchnorm
        self.geometry = GeometryInputs(sync) if config.geometry else None
        beside = GeometryInputs.width if config.geometry else 0
        self.backbone = SparseUNet(config.encoder.in_channels - 3 + beside, config.unet, sync)
        self.width = self.backbone.channels_out + beside

    def inputs(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Return what the U-Net reads of points (P, 4): (P, channels_in); lengths (B,) int64 on the CPU."""
        energy = points[:, 3:]
        return energy if self.geometry is None else torch.cat([energy, self.geometry(points, lengths)], 1)

    def features(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Map points (P, 4) to features (P, width); lengths (B,) int64 on the CPU."""
        inputs = self.inputs(points, lengths)
        x = self.backbone(points, lengths, inputs)
        return x if self.geometry is None else torch.cat([x, inputs[:, points.shape[1] - 3 :]], 1)
