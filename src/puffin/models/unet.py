"""A hierarchical network on the voxels of an event: a U-Net of sparse convolutions.

Source: SparseConvNet, arXiv 1711.10275, sec. 4; MinkowskiUNet, arXiv 1904.08755, sec. 4; residual blocks 1512.03385.
"""

import torch
from torch import Tensor, nn

from puffin.layers.voxels import ConvNorm, Level, ResidualBlock, voxelise
from puffin.settings.unet import UNetConfig


class SparseUNet(nn.Module):
    """Map features of points to features of points, through voxels of 1, 2, 4, ... voxel edges.

    On the way down each level has residual blocks and a strided convolution to the next; on the way up a transposed
    convolution brings the features back to the finer voxels, which keep those of the way down beside them.
    """

    def __init__(self, channels_in: int, config: UNetConfig, sync_batchnorm: bool = True):
        super().__init__()
        self.config = config
        widths, sync = config.widths, sync_batchnorm
        self.stem = ConvNorm(channels_in, widths[0], 27, sync)
        self.down = nn.ModuleList([_blocks(width, width, config.unet_blocks, sync) for width in widths])
        self.coarsen = nn.ModuleList([ConvNorm(a, b, 8, sync) for a, b in zip(widths, widths[1:], strict=False)])
        self.refine = nn.ModuleList([ConvNorm(b, a, 8, sync) for a, b in zip(widths, widths[1:], strict=False)])
        self.up = nn.ModuleList([_blocks(2 * width, width, config.unet_blocks, sync) for width in widths[:-1]])

    @property
    def channels_out(self) -> int:
        """Width of a point's features."""
        return self.config.widths[0]

    def forward(self, points: Tensor, lengths: Tensor, features: Tensor) -> Tensor:
        """Map features (P, channels_in) of points (P, 3 or more) to (P, channels_out); lengths (B,) on the CPU.

        Several points in one voxel share its features, which start from their mean."""
        voxels = voxelise(points, lengths, self.config.unet_levels)
        return voxels.to_points(self.of_voxels(voxels.mean(features), voxels.levels))

    def of_voxels(self, x: Tensor, levels: tuple[Level, ...]) -> Tensor:
        """Map features of the finest voxels (V, channels_in) to (V, channels_out)."""
        x = self.stem(x, levels[0].neighbours).relu()
        beside = []
        for k, level in enumerate(levels):
            x = _run(self.down[k], x, level)
            if level.coarser is not None:
                beside.append(x)
                x = self.coarsen[k](x, level.coarser).relu()
        for k in reversed(range(len(beside))):
            x = self.refine[k](x, levels[k].coarser.reverse()).relu()
            x = _run(self.up[k], torch.cat([x, beside[k]], 1), levels[k])
        return x


def _blocks(channels_in: int, channels_out: int, number: int, sync: bool) -> nn.ModuleList:
    widths = [channels_in, *[channels_out] * number]
    return nn.ModuleList([ResidualBlock(a, b, sync) for a, b in zip(widths, widths[1:], strict=False)])


def _run(blocks: nn.ModuleList, x: Tensor, level: Level) -> Tensor:
    for block in blocks:
        x = block(x, level.neighbours)
    return x
