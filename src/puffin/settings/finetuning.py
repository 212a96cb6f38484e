"""Settings of fine-tuning: whose weights a new run starts from, which of them it trains, and how fast."""

from dataclasses import dataclass
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.declare import setting
from puffin.settings.types import checked, class_numbers, number

ALL, HEAD = "all", "head"  # which weights are trained


@dataclass(frozen=True)
class FinetuningSettings:
    """A pretrained network with a new head."""

    TITLE: ClassVar[str] = "fine-tuning"

    pretrained: str = setting("", "checkpoint to start from", metavar="FILE", role=roles.ORIGIN)
    scratch: bool = setting(
        False,
        "with --pretrained: take the settings of the network but random weights, for comparison",
        role=roles.ORIGIN,
    )
    layer_decay: float = setting(
        1.0,
        "factor on the learning rate from each block to the one before it, if all weights are trained (try 0.75)",
        type=number(above=0, maximum=1),
        metavar="F",
        role=roles.ORIGIN,
    )
    lr_head_factor: float = setting(
        1.0,
        "factor on the learning rate of the head; above 1, its new layers learn faster than the pretrained ones",
        type=number(above=0),
        metavar="F",
        role=roles.ORIGIN,
    )


@dataclass(frozen=True)
class JetFinetuningSettings(FinetuningSettings):
    """A pretrained jet network with a new last layer."""

    pretrained: str = setting(
        "",
        "checkpoint of a classifier or a regressor, ours or published, or a name of weights/README.md; its network is "
        "trained with a new last layer; --target, classes, targets and the features of particles may differ",
        metavar="FILE",
        role=roles.ORIGIN,
    )
    finetune: str = setting(
        ALL,
        "which weights are trained: all, or the head alone, which is all layers after the blocks; the blocks then also "
        "keep their batch statistics and have no dropout",
        choices=(ALL, HEAD),
        role=roles.ORIGIN,
    )


@dataclass(frozen=True)
class ClassifierFinetuningSettings(JetFinetuningSettings):
    """A pretrained jet network whose new last layer can start from some of its classes."""

    pretrained_classes: str = setting(
        "",
        "classes of --pretrained from which the classes of this run start, separated by commas, the one for class 0 "
        "first; without it the last layer starts at random",
        type=checked(class_numbers),
        metavar="C,C",
        role=roles.ORIGIN,
    )
