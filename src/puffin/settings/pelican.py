"""Settings of PELICAN networks.  Source: Bogatskiy et al., arXiv 2211.00454 and 2307.16506."""

import argparse
from dataclasses import dataclass
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.declare import setting
from puffin.settings.letters import check_letters
from puffin.settings.roles import Role
from puffin.settings.stabilizers import BEAMS, METHODS, SPURIONS, STABILIZERS
from puffin.settings.types import flat_widths, integer, number, widths, widths_by_block

ACTIVATIONS = "leakyrelu relu elu selu celu gelu silu mish softplus softsign tanh atan sigmoid logsigmoid".split()
NORMS = ("batch", "instance", "layer", "none")
_PUBLISHED_NORMS = {"b": "batch", "i": "instance", "l": "layer", "false": "none"}


def norm_name(text) -> str:
    """Return a normalisation by its name or by the letter of the published scripts."""
    name = _PUBLISHED_NORMS.get(str(text).lower(), str(text).lower())
    if name not in NORMS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(NORMS)} (or b, i, l), got {text!r}")
    return name


def letters(text: str) -> str:
    """Accept the letters of aggregations."""
    try:
        check_letters(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("config: ")) from error
    return text


@dataclass(frozen=True)
class PelicanConfig:
    """Everything that defines a PELICAN network.

    scale (the factor on the momenta of the data), num_scalars (features of each particle) and num_observables
    (hand-made numbers of each jet, for classifiers) follow from the settings of the data.  irc_diagonal: published
    checkpoints of IRC-safe networks have the diagonal maps, but with them the network is not collinear-safe.
    published_projections: see docs/MATHEMATICS_PELICAN.md.
    """

    TITLE: ClassVar[str] = "network"
    ROLE: ClassVar[Role] = roles.NETWORK

    num_channels_scalar: int = setting(
        10,
        "number of channels computed from the scalars and spurion labels of the particles",
        type=integer(1),
        metavar="N",
    )
    num_channels_m: tuple[tuple[int, ...], ...] = setting(
        ((25,),) * 5,
        "widths of the message network of each block",
        type=widths,
        many="+",
        collect=widths_by_block,
        metavar="W",
    )
    num_channels_2to2: tuple[int, ...] = setting(
        (15,) * 5, "width of the aggregation of each block", type=widths, many="+", collect=flat_widths, metavar="W"
    )
    num_channels_m_out: tuple[int, ...] = setting(
        (25, 15), "widths of the last message network", type=widths, many="+", collect=flat_widths, metavar="W"
    )
    num_channels_out: tuple[int, ...] = setting(
        (25,), "widths of the output MLP", type=widths, many="+", collect=flat_widths, metavar="W"
    )
    num_classes: int = setting(2, "number of classes", type=integer(2), metavar="N")
    num_targets: int = setting(1, "number of four-momenta to predict", type=integer(1), metavar="N")
    scale: float = 1.0
    stabilizer: str = setting(
        "so2", "subgroup of the Lorentz group under which the network stays symmetric", choices=STABILIZERS
    )
    method: str = setting(
        "spurions",
        "how the rest of the symmetry is broken: by fixed vectors (spurions), or by inputs that are not invariant",
        choices=METHODS,
    )
    add_beams: bool = setting(False, "add the two beams (1,0,0,+-1) to each jet, with labels of their own")
    config: str = setting(
        "M",
        "aggregations: s sum, m mean, x maximum, n minimum; a capital letter adds a learnable power of the "
        "multiplicity",
        type=letters,
        metavar="LETTERS",
    )
    config_out: str = setting("M", "aggregations of the first and the last layer", type=letters, metavar="LETTERS")
    factorize: bool = setting(True, "factorise the weights that mix maps and channels")
    activation: str = setting("leakyrelu", "activation function", type=str.lower, choices=tuple(ACTIVATIONS))
    activate_agg: bool = setting(False, "activation after the aggregation, before the maps are mixed")
    activate_lin: bool = setting(True, "activation after the maps are mixed")
    activate_agg_out: bool = setting(True, "--activate-agg of the output layer")
    activate_lin_out: bool = setting(False, "--activate-lin of the output layer")
    mlp_out: bool = setting(True, "add an MLP after the last aggregation")
    nobj_avg: float = setting(
        49, "typical number of particles per jet, by which aggregations are scaled", type=number(minimum=1), metavar="N"
    )
    irc_safe: bool = setting(False, "infrared- and collinear-safe network (without scalars and spurions)")
    irc_diagonal: bool = setting(
        False, "keep the diagonal maps in an IRC-safe network, as published; this breaks collinear safety"
    )
    published_projections: bool = setting(
        False, "split the momenta of a se2 regressor as the published code does, which is not covariant"
    )
    drop_rate: float = setting(
        0.0, "dropout rate of the messages", type=number(minimum=0, below=1), metavar="P", role=roles.TRAINING
    )
    drop_rate_out: float = setting(
        0.0,
        "dropout rate before the output MLP",
        type=number(minimum=0, below=1),
        metavar="P",
        role=roles.TRAINING,
    )
    batchnorm: str = setting(
        "batch", "normalisation of the messages: batch, instance, layer or none", type=norm_name, metavar="NORM"
    )
    sync_batchnorm: bool = setting(
        True,
        "with torchrun: batch statistics over the events of all processes, as one process with all of them has",
        role=roles.TRAINING,
    )
    num_scalars: int = 0
    num_observables: int = 0

    def __post_init__(self):
        for name, choices in (("stabilizer", STABILIZERS), ("method", METHODS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        check_letters(self.config, self.irc_safe)
        check_letters(self.config_out, self.irc_safe, "config_out")
        if len(self.num_channels_m) != len(self.num_channels_2to2):
            raise ValueError(
                f"num_channels_m and num_channels_2to2: expected one entry per block in both, got "
                f"{len(self.num_channels_m)} and {len(self.num_channels_2to2)}"
            )
        if not self.num_channels_m_out:
            raise ValueError("num_channels_m_out: expected at least one width, got none")
        if self.irc_safe and self.num_labels:
            raise ValueError(
                "irc_safe: scalars and spurions are not IRC-safe; use it without per-particle scalars and beams, "
                "and with --method input or --stabilizer so13"
            )
        if self.rank2_channels < 1:
            raise ValueError(
                f"num_channels_scalar: expected fewer than the first width, {self.first_width}, got "
                f"{self.num_channels_scalar}"
            )

    @property
    def spurions(self) -> tuple[tuple[float, ...], ...]:
        """The fixed vectors that are added to each event's particles."""
        broken = SPURIONS[self.stabilizer] if self.method == "spurions" else ()
        return broken + (BEAMS if self.add_beams else ())

    @property
    def num_labels(self) -> int:
        """Number of rank-1 input channels: scalars of the data set, then one-hot spurion labels."""
        return self.num_scalars + (1 + len(self.spurions) if self.spurions else 0)

    @property
    def first_width(self) -> int:
        """Number of channels of the first block's input."""
        return self.num_channels_m[0][0] if self.num_channels_m[0] else self.num_channels_2to2[0]

    @property
    def rank2_channels(self) -> int:
        """Number of channels of the first block's input that come from pairs."""
        return self.first_width - (self.num_channels_scalar if self.num_labels else 0)
