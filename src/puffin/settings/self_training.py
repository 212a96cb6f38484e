"""Settings of self-training: further events, which may have no labels, with the predictions of earlier runs."""

from dataclasses import dataclass
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.declare import setting
from puffin.settings.types import number


@dataclass(frozen=True)
class SelfTrainingSettings:
    """Which predictions to learn from, and how often labelled events are repeated beside them."""

    TITLE: ClassVar[str] = "events without labels"

    pseudo_labels: tuple[str, ...] = setting(
        (),
        "predictions of earlier runs (predict/NAME.best.test.EVENTS.*) for further training events, which may have no "
        "labels: trains on the mean of their class probabilities; the --num-train events keep their labels",
        many="+",
        collect=tuple,
        metavar="FILE",
        role=roles.ORIGIN,
    )
    labelled_fraction: float = setting(
        0.25,
        "with --pseudo-labels: fraction of training events that have true labels, which are repeated for it",
        type=number(minimum=0, below=1),
        metavar="F",
        role=roles.ORIGIN,
    )


@dataclass(frozen=True)
class JetSelfTrainingSettings(SelfTrainingSettings):
    """Predictions of jets have no names of their files, so these are given too."""

    unlabelled: str = setting(
        "",
        "with --pseudo-labels: file of the jets that were predicted (the --testfile of those runs)",
        metavar="FILE",
        role=roles.ORIGIN,
    )
