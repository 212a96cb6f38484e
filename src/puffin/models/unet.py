"""A hierarchical network on the voxels of an event: a U-Net of sparse convolutions.

Source: SparseConvNet, arXiv 1711.10275, sec. 4; MinkowskiUNet, arXiv 1904.08755, sec. 4; residual blocks 1512.03385.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from puffin.layers.voxels import ConvNorm, Pyramid, ResidualBlocks, voxelise
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
        neighbours = pyramid.neighbours
        x = self.down[0](self.stem(x, neighbours[0]).relu(), neighbours[0])
        skipped = [x]
        for k, coarser in enumerate(pyramid.coarser):
            x = self.down[k + 1](self.coarsen[k](x, coarser).relu(), neighbours[k + 1])
            skipped.append(x)
        for k, coarser in reversed(list(enumerate(pyramid.coarser))):
            x = self.refine[k](x, coarser.reverse()).relu()
            x = self.up[k](torch.cat([x, skipped[k]], 1), neighbours[k])
        return x
