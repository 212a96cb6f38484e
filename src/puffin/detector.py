"""The detector whose point clouds are read, described once.  Needs neither PyTorch nor NumPy."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Detector:
    """A cube of voxels, the classes of its points, and how often each class occurs.

    name: of the data set; size: voxels along an edge; voxel_cm: edge of a voxel [cm]; class_names: in the order of the
    class numbers in the files; class_counts: points of each class in the training set; training_events: events of the
    training set; low_energy_deposits: number of the class of points that belong to no particle track or shower, which
    must be the last class.

    Coordinates in voxels are scaled to (x - centre) / half_diagonal: the cube just fits into the unit ball, however it
    is rotated.
    """

    name: str
    size: int
    voxel_cm: float
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    training_events: int
    low_energy_deposits: int

    def __post_init__(self):
        assert len(self.class_counts) == len(self.class_names) == self.low_energy_deposits + 1

    @property
    def centre(self) -> float:
        """Each coordinate of the centre [voxels]."""
        return self.size / 2

    @property
    def half_diagonal(self) -> float:
        """Half of the cube's diagonal [voxels]: one unit of the scaled coordinates."""
        return self.size * math.sqrt(3) / 2

    @property
    def voxel(self) -> float:
        """Edge of a voxel in scaled coordinates."""
        return 1 / self.half_diagonal

    def voxels(self, coordinates):
        """Return the coordinates [voxel] of scaled ones, an array or a tensor."""
        return coordinates * self.half_diagonal + self.centre

    @property
    def unit_cm(self) -> float:
        """One unit of the scaled coordinates [cm]."""
        return self.voxel_cm * self.half_diagonal

    def classes(self, remove_led: bool) -> tuple[str, ...]:
        """Names of the classes, without low-energy deposits if these are removed."""
        return self.class_names[: self.low_energy_deposits] if remove_led else self.class_names


# Source: arXiv 2502.02558, sec. 3 and app. A
PILARNET = Detector(
    name="PILArNet-M",
    size=768,
    voxel_cm=0.3,
    class_names=("shower", "track", "michel", "delta", "led"),
    class_counts=(1926651899, 2038240940, 34083197, 92015482, 1145363125),
    training_events=1_199_200,
    low_energy_deposits=4,
)
