"""Settings of the hierarchical network on voxels."""

from dataclasses import dataclass
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.declare import setting
from puffin.settings.roles import Role
from puffin.settings.types import integer


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net of sparse convolutions.

    Level 0 has the voxels of the detector; the voxels of each further level have twice the edge. Level k has
    (k + 1) unet_width channels. Source: arXiv 1711.10275, 1904.08755.
    """

    TITLE: ClassVar[str] = "network, with --backbone unet"
    ROLE: ClassVar[Role] = roles.NETWORK

    unet_width: int = setting(
        16, "channels at the finest level; level k has k + 1 times as many", type=integer(1), metavar="N"
    )
    unet_levels: int = setting(
        5, "number of levels; each halves the resolution of the one before", type=integer(1), metavar="N"
    )
    unet_blocks: int = setting(
        1, "residual blocks per level, on the way down and on the way up", type=integer(1), metavar="N"
    )

    def __post_init__(self):
        for name in ("unet_width", "unet_levels", "unet_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.unet_levels > 16:
            raise ValueError(f"unet_levels: expected at most 16, got {self.unet_levels}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(self.unet_width * (level + 1) for level in range(self.unet_levels))
