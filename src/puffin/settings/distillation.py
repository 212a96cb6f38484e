"""Settings of self-distillation, a pretraining of the U-Net."""

from dataclasses import dataclass
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.declare import setting
from puffin.settings.roles import Role
from puffin.settings.types import integer, number


@dataclass(frozen=True)
class DistillationConfig:
    """What student and teacher see, and how their features are compared.

    Source: DINO, arXiv 2104.14294; Sonata, arXiv 2503.16429.
    """

    TITLE: ClassVar[str] = "pretraining, with --method distill"
    ROLE: ClassVar[Role] = roles.NETWORK

    prototypes: int = setting(
        256,
        "number of directions to which features of points are compared; more distinguish finer structures",
        type=integer(2),
        metavar="N",
    )
    crops: int = setting(
        2, "number of crops of each event, which the student sees beside the masked event", type=integer(0), metavar="N"
    )
    crop_radius: float = setting(
        96,
        "a crop has all points within this distance of a random point [voxels]",
        type=number(above=0),
        metavar="R",
    )
    teacher_temperature: float = setting(
        0.04,
        "divides the teacher's cosines before the softmax, 0.03 to 1; the student's temperature is 0.1, and lower "
        "values here ask it for sharper assignments to prototypes",
        type=number(minimum=0.03, maximum=1),
        metavar="T",
    )
    teacher_momentum: float = setting(
        0.99,
        "fraction of the teacher's weights that an update keeps at the beginning, 0 or more and below 1; it rises to 1 "
        "along a cosine; closer to 1 for longer runs",
        type=number(minimum=0, below=1),
        metavar="M",
        role=roles.ORIGIN,
    )
