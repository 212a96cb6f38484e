"""PELICAN: permutation-equivariant networks on the Lorentz invariants of a jet's particles.

Source: Bogatskiy et al., arXiv 2211.00454 and 2307.16506.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from puffin.data.packing import JetBatch
from puffin.layers.aggregators import AggregatorOptions, Eq1to2, Eq2to0, Eq2to1, Eq2to2
from puffin.layers.dropout import PairDropout
from puffin.layers.input_encoder import InputEncoder
from puffin.layers.lorentz import (
    BEAMS,
    METHODS,
    PROJECTIONS,
    PUBLISHED_PROJECTIONS,
    SPURIONS,
    WITHOUT_DOT_PRODUCT,
    irc_angles,
    irc_weights,
    num_rank2_inputs,
    prepend_spurions,
    rank2_inputs,
)
from puffin.layers.mlp import MLP, MessageNet
from puffin.layers.packed_pairs import PackedPairs
from puffin.layers.pair_geometry import PairGeometry
from puffin.ops.pair_index import PairIndex
from puffin.settings.letters import check_letters


@dataclass(frozen=True)
class PelicanConfig:
    """Everything that shapes a PELICAN network; names are those of the command line.

    num_scalars: per-particle features of the data set.  num_targets, scale: of a regressor, how many four-momenta it
    predicts, and the factor that its input momenta carry.  irc_diagonal: keep the diagonal maps in an IRC-safe network;
    published checkpoints have them, but with them the network is not collinear-safe.  published_projections: split
    the momenta of a se2 regressor as published checkpoints do, which is not covariant (docs/ARCHITECTURE.md).
    """

    num_channels_scalar: int = 10
    num_channels_m: tuple[tuple[int, ...], ...] = ((25,),) * 5
    num_channels_2to2: tuple[int, ...] = (15,) * 5
    num_channels_m_out: tuple[int, ...] = (25, 15)
    num_channels_out: tuple[int, ...] = (25,)
    num_classes: int = 2
    num_targets: int = 1
    scale: float = 1.0
    stabilizer: str = "so2"
    method: str = "spurions"
    add_beams: bool = False
    config: str = "M"
    config_out: str = "M"
    factorize: bool = True
    activation: str = "leakyrelu"
    activate_agg: bool = False
    activate_lin: bool = True
    activate_agg_out: bool = True
    activate_lin_out: bool = False
    mlp_out: bool = True
    nobj_avg: float = 49
    irc_safe: bool = False
    irc_diagonal: bool = False
    published_projections: bool = False
    drop_rate: float = 0.0
    drop_rate_out: float = 0.0
    batchnorm: str = "batch"
    sync_batchnorm: bool = False
    num_scalars: int = 0

    def __post_init__(self):
        check_choice("stabilizer", self.stabilizer, SPURIONS)
        check_choice("method", self.method, METHODS)
        check_letters(self.config, self.irc_safe)
        check_letters(self.config_out, self.irc_safe)
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
                f"num_channels_scalar: expected fewer than the first width, {self.first_width}, got {self.num_channels_scalar}"
            )

    @property
    def spurions(self) -> tuple[tuple[float, ...], ...]:
        """The fixed vectors in front of each event's particles."""
        broken = SPURIONS[self.stabilizer] if self.method == "spurions" else ()
        return broken + (BEAMS if self.add_beams else ())

    @property
    def num_labels(self) -> int:
        """Rank-1 input channels: scalars of the data set, then one-hot spurion labels."""
        return self.num_scalars + (1 + len(self.spurions) if self.spurions else 0)

    @property
    def first_width(self) -> int:
        """Channels of the first block's input."""
        return self.num_channels_m[0][0] if self.num_channels_m[0] else self.num_channels_2to2[0]

    @property
    def rank2_channels(self) -> int:
        """Channels of the first block's input that come from pairs."""
        return self.first_width - (self.num_channels_scalar if self.num_labels else 0)

    def aggregator(
        self, config: str, *, factorize: bool = False, activate_agg: bool = False, activate_lin: bool = True
    ):
        """Options of one aggregation layer."""
        return AggregatorOptions(
            config,
            factorize,
            self.nobj_avg,
            self.activation,
            activate_agg,
            activate_lin,
            diagonal=not self.irc_safe or self.irc_diagonal,
        )


class Embedded(NamedTuple):
    """Pair features (*pairs, C), the geometry they belong to, and the momenta (N', 4), spurions included."""

    pairs: Tensor
    geometry: PairGeometry
    fourmomenta: Tensor


def check_choice(name: str, value: str, choices) -> None:
    """Raise ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


class Net2to2(nn.Module):
    """The blocks of a network, each of messages on pairs, dropout and aggregation."""

    def __init__(self, config: PelicanConfig):
        super().__init__()
        entries = [m[0] if m else c for m, c in zip(config.num_channels_m, config.num_channels_2to2, strict=False)]
        outputs = entries[1:] + [config.num_channels_m_out[0]]
        options = config.aggregator(
            config.config,
            factorize=config.factorize,
            activate_agg=config.activate_agg,
            activate_lin=config.activate_lin,
        )
        self.message_layers = nn.ModuleList(
            MessageNet([*m, c], config.activation, config.batchnorm, config.sync_batchnorm)
            for m, c in zip(config.num_channels_m, config.num_channels_2to2, strict=False)
        )
        self.eq_layers = nn.ModuleList(
            Eq2to2(c, out, options) for c, out in zip(config.num_channels_2to2, outputs, strict=False)
        )
        self.dropout = PairDropout(config.drop_rate)

    def forward(self, x: Tensor, geometry: PairGeometry) -> Tensor:
        """Map x (*pairs, first width) to (*pairs, first of num_channels_m_out)."""
        for message, aggregate in zip(self.message_layers, self.eq_layers, strict=False):
            x = aggregate(self.dropout(message(x, geometry)), geometry)
        return x


class PelicanBackbone(nn.Module):
    """The part shared by all networks, from four-momenta to pair features: input embedding and blocks.

    Attribute names are those of published checkpoints, so that their state loads unchanged.
    """

    def __init__(self, config: PelicanConfig):
        super().__init__()
        self.config = config
        self.linear = nn.Linear(num_rank2_inputs(config.stabilizer, config.method), config.rank2_channels)
        self.input_encoder = InputEncoder(config.rank2_channels, config.irc_safe)
        if config.num_labels:
            self.eq1to2 = Eq1to2(config.num_labels, config.num_channels_scalar, config.aggregator(config.config_out))
        self.net2to2 = Net2to2(config)
        self._copy_dot_products_()

    @torch.no_grad()
    def _copy_dot_products_(self) -> None:
        """Initialise the first linear layer to p_i . p_j in every channel (docs/MATHEMATICS_PELICAN.md, section 2)."""
        self.linear.bias.zero_()
        weight = self.linear.weight.zero_()
        if self.config.method == "input" and self.config.stabilizer in WITHOUT_DOT_PRODUCT:
            weight.copy_(weight.new_tensor([1.0, -1.0, -1.0, -1.0]).expand_as(weight))
        else:
            weight[:, -1] = 1

    @torch.compiler.disable
    def embed(self, batch: JetBatch) -> Embedded:
        """Compute the input of the first block for a packed batch."""
        config = self.config
        p, scalars, lengths = batch.fourmomenta, batch.scalars, batch.lengths
        if (0 if scalars is None else scalars.shape[1]) != config.num_scalars:
            got = 0 if scalars is None else scalars.shape[1]
            raise ValueError(f"scalars: the network takes {config.num_scalars} per particle, the data has {got}")
        if config.spurions:
            p, scalars, lengths = prepend_spurions(p, scalars, lengths, config.spurions)
        geometry = PackedPairs.of(PairIndex(lengths, p.device), self.linear.weight.dtype)
        return self.embed_nodes(p, scalars, geometry)

    def embed_nodes(self, p: Tensor, scalars: Tensor | None, geometry: PairGeometry) -> Embedded:
        """Compute the input of the first block from nodes, spurions included.

        p (N', 4); scalars (N', num_labels) or None; geometry: of these nodes, without weights.
        """
        config = self.config
        inputs = rank2_inputs(p, geometry, config.stabilizer, config.method)
        if config.irc_safe:
            geometry, inputs = self._irc_safe(p, inputs, geometry)
        x = geometry.complete(self.input_encoder(self.linear(inputs), geometry))
        if config.num_labels:
            x = torch.cat([x, self.eq1to2(scalars, geometry)], -1)
        return Embedded(x, geometry, p)

    def _irc_safe(self, p: Tensor, inputs: Tensor, geometry: PairGeometry) -> tuple[PairGeometry, Tensor]:
        """Return the geometry with IRC-safe weights and multiplicity, and angles instead of the inputs."""
        dtype = self.linear.weight.dtype
        dots = rank2_inputs(p, geometry, "so13", "input")
        weights, scale = irc_weights(dots, geometry)
        multiplicity = geometry.multiplicity
        if set(self.config.config + self.config.config_out) != {"s"}:  # plain sums do not use n
            multiplicity = geometry.soft_drop_multiplicity(dots)[:, None].to(dtype)
        angles = irc_angles(inputs, scale, geometry)
        return replace(geometry, multiplicity=multiplicity, weights=weights.to(dtype)), angles

    def run_blocks(self, embedded: Embedded) -> Embedded:
        """Replace the pair features by the output of the last block, (*pairs, first of num_channels_m_out)."""
        return embedded._replace(pairs=self.net2to2(embedded.pairs, embedded.geometry))

    def through_blocks(self, batch: JetBatch) -> Embedded:
        """Embed a packed batch and run the blocks."""
        # invariants span many orders of magnitude, so they are embedded in full precision, with autocast too
        with torch.autocast(batch.fourmomenta.device.type, enabled=False):
            embedded = self.embed(batch)
        return self.run_blocks(embedded)


class PelicanClassifier(PelicanBackbone):
    """Map jets to class scores."""

    def __init__(self, config: PelicanConfig):
        super().__init__(config)
        self.msg_2to0 = MessageNet(
            list(config.num_channels_m_out), config.activation, config.batchnorm, config.sync_batchnorm
        )
        widths = [*config.num_channels_out, config.num_classes] if config.mlp_out else [config.num_classes]
        options = config.aggregator(
            config.config_out, activate_agg=config.activate_agg_out, activate_lin=config.activate_lin_out
        )
        self.agg_2to0 = Eq2to0(config.num_channels_m_out[-1], widths[0], options)
        self.dropout, self.dropout_out = PairDropout(config.drop_rate), nn.Dropout(config.drop_rate_out)
        if config.mlp_out:
            self.mlp_out = MLP(widths, config.activation)

    def read_out(self, embedded: Embedded) -> Tensor:
        """Compute the scores (B, num_classes) from the output of the last block."""
        x, geometry, _ = embedded
        x = self.dropout(self.msg_2to0(x, geometry))
        x = self.dropout_out(self.agg_2to0(x, geometry))
        return self.mlp_out(x) if self.config.mlp_out else x

    def forward(self, batch: JetBatch) -> Tensor:
        """Compute the scores (B, num_classes), before the softmax."""
        return self.read_out(self.through_blocks(batch))


class Regression(NamedTuple):
    """The predicted four-momenta, and the weights of the particles that they are sums of.

    fourmomenta (B, T, 4) [GeV]; weights (N', T, K), spurions first in each jet; lengths (B,) rows of weights per jet.
    """

    fourmomenta: Tensor
    weights: Tensor
    lengths: Tensor


class PelicanRegressor(PelicanBackbone):
    """Map jets to T four-momenta: sums of the particles' momenta with invariant weights.

    With --method spurions there is one weight for each particle and spurion; with --method input there are K, one for
    each part of the momentum that the stabilizer does not mix (`PROJECTIONS`).  Source: arXiv 2307.16506, sec. 5.
    """

    def __init__(self, config: PelicanConfig):
        super().__init__(config)
        projections = PUBLISHED_PROJECTIONS if config.published_projections else PROJECTIONS
        parts = projections["so13" if config.method == "spurions" else config.stabilizer]
        self.register_buffer("projections", torch.tensor(parts), persistent=False)
        self.msg_2to1 = MessageNet(
            list(config.num_channels_m_out), config.activation, config.batchnorm, config.sync_batchnorm
        )
        outputs = len(parts) * config.num_targets
        widths = [*config.num_channels_out, outputs] if config.mlp_out else [outputs]
        options = config.aggregator(
            config.config_out,
            factorize=config.factorize,
            activate_agg=config.activate_agg_out,
            activate_lin=config.activate_lin_out,
        )
        self.agg_2to1 = Eq2to1(config.num_channels_m_out[-1], widths[0], options)
        self.dropout, self.dropout_out = PairDropout(config.drop_rate), nn.Dropout(config.drop_rate_out)
        if config.mlp_out:
            self.mlp_out_1 = MLP(widths, config.activation)

    def read_out(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """Compute the four-momenta (B, T, 4) and the weights (N', T, K) from the output of the last block."""
        x, geometry, p = embedded
        x = self.dropout(self.msg_2to1(x, geometry))
        x = self.dropout_out(self.agg_2to1(x, geometry))
        x = self.mlp_out_1(x) if self.config.mlp_out else x
        weights = x.to(p.dtype).view(p.shape[0], self.config.num_targets, len(self.projections))
        parts = torch.einsum("kab,nb->nka", self.projections.to(p.dtype), p)
        terms = torch.einsum("ntk,nka->nta", weights, parts).flatten(1)
        return geometry.sum_nodes(terms).view(-1, self.config.num_targets, 4) / self.config.scale, weights

    def forward(self, batch: JetBatch) -> Regression:
        """Predict the four-momenta of each jet."""
        momenta, weights = self.read_out(self.through_blocks(batch))
        return Regression(momenta, weights, batch.lengths + len(self.config.spurions))
