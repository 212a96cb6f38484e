"""Hand-made features of points as inputs of networks: the shape of their surroundings at several scales."""

import torch
from torch import Tensor, nn

from puffin.detector import PILARNET
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.packed import offsets, to_device
from puffin.ops.geometry import COMPONENT_NAMES, component_geometry, geometry_names, local_geometry

NAMES = (*geometry_names(), *COMPONENT_NAMES)
_LINK = 1.8  # voxels; links the 26 voxels around a voxel
_BOUNDED = ("share1", "share2", "share3", "alignment")  # from 0 to 1; the others are lengths, numbers and energies


class GeometryInputs(nn.Module):
    """Describe points (P, 4), scaled as data sets give them, by features (P, width), normalised.

    The features are those of `puffin.ops.geometry`, in voxels. The scaled energy, -1 to about 1, counts as 0 to 1.
    They depend neither on the orientation of the event nor on the order of its points.
    """

    width = len(NAMES)
    bounded: Tensor

    def __init__(self, sync_batchnorm: bool = True):
        super().__init__()
        self.norm = MaskedBatchNorm(self.width, sync=sync_batchnorm)
        bounded = [name.split("_")[-1] in _BOUNDED for name in NAMES]
        self.register_buffer("bounded", torch.tensor(bounded), persistent=False)

    def forward(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Compute the features; lengths (B,) int64 on the CPU: points of each event."""
        return self.norm(self.measure(points, lengths))

    @torch.no_grad()
    def measure(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Compute the features before they are normalised: lengths, numbers and energies as log(1 + x)."""
        ptr = to_device(offsets(lengths), points.device)
        voxels = torch.cat([points[:, :3] * PILARNET.half_diagonal, (points[:, 3:4] + 1) / 2], 1)
        x = torch.cat([local_geometry(voxels, ptr), component_geometry(voxels, ptr, _LINK)], 1)
        return torch.where(self.bounded, x, x.clamp_min(0).log1p())
