"""Hand-made features of points as inputs of networks: the shape of their surroundings at several scales."""

import torch
from torch import Tensor

from puffin.detector import PILARNET
from puffin.layers.encoded_numbers import EncodedNumbers
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.packed import offsets, to_device
from puffin.ops.geometry import COMPONENT_NAMES, component_geometry, geometry_names, local_geometry
from puffin.ops.segments import segment_expand, segment_sum

LINKS = (1.8, 5.0)  # voxels, distances of linked points in two kinds of connected components; 1.8 links 26 voxels
NAMES = (
    "energy",
    *geometry_names(),
    *(f"link{link:g}_{name}" for link in LINKS for name in COMPONENT_NAMES),
    "event_points",
    "event_energy",
)
_FINE = 64  # parts of a voxel to which coordinates are rounded
_BOUNDED = ("share1", "share2", "share3", "alignment")  # from 0 to 1; the others are lengths, numbers and energies
_LOWEST, _HIGHEST = -2.5, 2.5  # knots of the piecewise linear functions, in standard deviations


def surroundings(points: Tensor, ptr: Tensor) -> Tensor:
    """Describe the surroundings of each point by the numbers NAMES without the energy of the point itself, (P, F).

    points (P, 4): x, y, z [voxel] and energy in any unit; ptr (B + 1,) int64: first point of each event. The columns
    are those of `local_geometry`, those of `component_geometry` for each of LINKS, and the number of points and the
    energy of the event. Not differentiable."""
    of_event = torch.cat([ptr.diff()[:, None].to(points.dtype), segment_sum(points[:, 3:], ptr)], 1)
    components = [component_geometry(points, ptr, link) for link in LINKS]
    return torch.cat([local_geometry(points, ptr), *components, segment_expand(of_event, ptr, len(points))], 1)


class GeometryInputs(EncodedNumbers):
    """Describe points (P, 4), scaled as data sets give them, by features (P, width) of themselves and their
    surroundings.

    The numbers of `measure` are normalised, then encoded. Nothing depends on the orientation of the event or on the
    order of its points.
    """

    bounded: Tensor

    def __init__(self, sync_batchnorm: bool = True):
        super().__init__(len(NAMES), _LOWEST, _HIGHEST, sync_batchnorm)
        self.norm = MaskedBatchNorm(len(NAMES), sync=sync_batchnorm)
        bounded = [name == "energy" or name.split("_")[-1] in _BOUNDED for name in NAMES]
        self.register_buffer("bounded", torch.tensor(bounded), persistent=False)

    def forward(self, points: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the features; lengths (B,) int64 on the CPU: points of each event."""
        return super().forward(self.norm(self.measure(points, lengths)))

    @torch.no_grad()
    def measure(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Compute the hand-made features NAMES of each point, (P, F): the energy, and those of `surroundings`.

        Lengths, numbers and sums of energies are given as log(1 + x). The energy is the scaled one, -1 to about 1; sums
        and means take it as 0 to 1."""
        ptr = to_device(offsets(lengths), points.device)
        # without the rounding errors of the scaled coordinates, which break ties of distances on the lattice
        voxels = (points[:, :3] * PILARNET.half_diagonal * _FINE).round() / _FINE
        voxels = torch.cat([voxels, (points[:, 3:4] + 1) / 2], 1)
        x = torch.cat([points[:, 3:], surroundings(voxels, ptr)], 1)
        return torch.where(self.bounded, x, x.clamp_min(0).log1p())
