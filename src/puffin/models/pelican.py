"""PELICAN: permutation-equivariant networks on the Lorentz invariants of a jet's particles.

Source: Bogatskiy et al., arXiv 2211.00454 and 2307.16506.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from puffin.data.packing import JetBatch
from puffin.layers.aggregators import AggregatorOptions, Eq1to2, Eq2to0, Eq2to1, Eq2to2
from puffin.layers.dropout import PairDropout
from puffin.layers.input_encoder import InputEncoder
from puffin.layers.lorentz import (
    PROJECTIONS,
    PUBLISHED_PROJECTIONS,
    WITHOUT_DOT_PRODUCT,
    irc_angles,
    irc_weights,
    num_rank2_inputs,
    prepend_spurions,
    rank2_inputs,
)
from puffin.layers.mlp import MLP, MessageNet
from puffin.layers.observable_inputs import ObservableHead
from puffin.layers.packed_pairs import PackedPairs
from puffin.layers.pair_geometry import PairGeometry
from puffin.models.parameter_groups import parameter_groups
from puffin.ops.embedding import slope_of
from puffin.ops.pair_blocks import Block, BlockOptions
from puffin.ops.pair_index import PairIndex
from puffin.settings.pelican import PelicanConfig


def aggregator_options(
    config: PelicanConfig, letters: str, factorize: bool = False, activate_agg: bool = False, activate_lin: bool = True
) -> AggregatorOptions:
    """Return the options of one aggregation layer."""
    return AggregatorOptions(
        letters,
        factorize,
        config.nobj_avg,
        config.activation,
        activate_agg,
        activate_lin,
        diagonal=not config.irc_safe or config.irc_diagonal,
    )


class Embedded(NamedTuple):
    """Pair features (*pairs, C), the geometry they belong to, and the momenta (N', 4), spurions included."""

    pairs: Tensor
    geometry: PairGeometry
    fourmomenta: Tensor


class Net2to2(nn.Module):
    """The blocks of a network, each of messages on pairs, dropout and aggregation."""

    def __init__(self, config: PelicanConfig):
        super().__init__()
        entries = [m[0] if m else c for m, c in zip(config.num_channels_m, config.num_channels_2to2, strict=False)]
        outputs = entries[1:] + [config.num_channels_m_out[0]]
        options = aggregator_options(
            config,
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
        if self._can_be_one_operator and geometry.has_block_kernel(x):
            return geometry.run_blocks(x, *self._numbers())
        for output in self.outputs(x, geometry):
            x = output
        return x

    def outputs(self, x: Tensor, geometry: PairGeometry) -> Iterator[Tensor]:
        """Yield the output of each block, (*pairs, its width)."""
        for message, aggregate in zip(self.message_layers, self.eq_layers, strict=False):
            x = aggregate(self.dropout(message(x, geometry)), geometry)
            yield x

    @property
    def _can_be_one_operator(self) -> bool:
        """Whether `pair_blocks` computes the blocks: without gradients, in evaluation mode, for the usual layers."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        messages = all(len(m.linear) == 1 and m.is_leaky_and_normalised for m in self.message_layers)
        return messages and all(e.is_linear and slope_of(e.activate_lin) is not None for e in self.eq_layers)

    def _numbers(self) -> tuple[list[Block], BlockOptions]:
        """Return the arguments of `pair_blocks`."""
        blocks = []
        layers: list[Any] = list(zip(self.message_layers, self.eq_layers, strict=False))
        for message, layer in layers:
            exponents = layer.exponents()
            alphas = layer.bias.new_empty(layer.in_channels, 0) if exponents is None else exponents
            weight, bias = message.linear[0].weight, message.linear[0].bias
            scale, shift = message.normlayer.affine()
            blocks.append(Block(weight, bias, scale, shift, layer.coefficients(), alphas, layer.bias, layer.diag_bias))
        message, layer = layers[0]
        slopes = (message.activation.negative_slope, slope_of(layer.activate_lin))
        return blocks, BlockOptions(*slopes, layer.table, layer.options.nobj_avg)


class PelicanBackbone(nn.Module):
    """The part shared by all networks, from four-momenta to pair features: input embedding and blocks.

    Attribute names are those of published checkpoints, so that their state loads unchanged.  head: names of the parts
    after the blocks in a subclass: last messages, last aggregation, output MLP.
    """

    head: tuple[str, str, str]

    def __init__(self, config: PelicanConfig):
        super().__init__()
        self.config = config
        self.frozen = False
        self.linear = nn.Linear(num_rank2_inputs(config.stabilizer, config.method), config.rank2_channels)
        self.input_encoder = InputEncoder(config.rank2_channels, config.irc_safe)
        if config.num_labels:
            self.eq1to2 = Eq1to2(
                config.num_labels, config.num_channels_scalar, aggregator_options(config, config.config_out)
            )
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

    @property
    def last_layer(self) -> str:
        """Name of the layer whose width is the number of outputs."""
        _, aggregation, mlp = self.head
        hidden = len(self.config.num_channels_out) if self.config.mlp_out else 0
        return f"{mlp}.linear.{hidden - 1}" if hidden else aggregation

    @property
    def stages(self) -> list[nn.ModuleList]:
        """The parts below the head in the order in which they compute: the input embedding, then the blocks."""
        labels = [self.eq1to2] if self.config.num_labels else []
        blocks = zip(self.net2to2.message_layers, self.net2to2.eq_layers, strict=True)
        return [nn.ModuleList(stage) for stage in ([self.linear, self.input_encoder, *labels], *blocks)]

    def parameter_groups(self, layer_decay: float = 1.0, head_factor: float = 1.0) -> list[dict]:
        """Group the trainable parameters (see parameter_groups.py)."""
        return parameter_groups(self, self.stages, layer_decay, head_factor)

    def freeze_(self) -> None:
        """Train the head alone from now on: all else keeps its weights and running statistics, and has no dropout."""
        for stage in self.stages:
            stage.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "PelicanBackbone":
        """Set the mode; frozen parts stay in eval mode."""
        super().train(mode)
        if self.frozen:
            for part in (*self.stages, self.net2to2):
                part.eval()
        return self

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
        # invariants span many orders of magnitude, so they are computed in full precision, with autocast too
        with torch.autocast(p.device.type, enabled=False):
            inputs = rank2_inputs(p, geometry, config.stabilizer, config.method)
            if config.irc_safe:
                geometry, inputs = self._irc_safe(p, inputs, geometry)
            labels = self.eq1to2(scalars, geometry) if config.num_labels else None
        return Embedded(self.input_encoder(inputs, self.linear, geometry, labels), geometry, p)

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
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.run_blocks(self.embed(batch))

    @staticmethod
    def output(mlp: MLP, x: Tensor, geometry: PairGeometry) -> Tensor:
        """Apply the last MLP: in float32 where autocast concerns pair features only, so that scores have few ties."""
        if not geometry.stores_half(x):
            return mlp(x)
        with torch.autocast(x.device.type, enabled=False):
            return mlp(x)


class PelicanClassifier(PelicanBackbone):
    """Map jets to class scores."""

    head = ("msg_2to0", "agg_2to0", "mlp_out")

    def __init__(self, config: PelicanConfig):
        super().__init__(config)
        self.msg_2to0 = MessageNet(
            list(config.num_channels_m_out), config.activation, config.batchnorm, config.sync_batchnorm
        )
        widths = [*config.num_channels_out, config.num_classes] if config.mlp_out else [config.num_classes]
        options = aggregator_options(
            config, config.config_out, activate_agg=config.activate_agg_out, activate_lin=config.activate_lin_out
        )
        self.agg_2to0 = Eq2to0(config.num_channels_m_out[-1], widths[0], options)
        self.dropout, self.dropout_out = PairDropout(config.drop_rate), nn.Dropout(config.drop_rate_out)
        if config.mlp_out:
            self.mlp_out = MLP(widths, config.activation)
        self.observables = None
        if config.num_observables:
            self.observables = ObservableHead(
                config.num_observables, widths[0], config.num_classes, config.sync_batchnorm
            )

    def read_out(self, embedded: Embedded, observables: Tensor | None = None) -> Tensor:
        """Compute the scores (B, num_classes) from the output of the last block, and from observables (B, F) if the
        network takes them."""
        x, geometry, _ = embedded
        x = self.dropout(self.msg_2to0(x, geometry))
        x = self.dropout_out(self.agg_2to0(x, geometry))
        scores = self.output(self.mlp_out, x, geometry) if self.config.mlp_out else x
        if self.observables is None:
            return scores
        if observables is None:
            raise ValueError(f"observables: the network takes {self.config.num_observables} of each jet, got none")
        with torch.autocast(x.device.type, enabled=False):
            return scores + self.observables(observables, x)

    def forward(self, batch: JetBatch) -> Tensor:
        """Compute the scores (B, num_classes), before the softmax."""
        return self.read_out(self.through_blocks(batch), batch.observables)


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

    head = ("msg_2to1", "agg_2to1", "mlp_out_1")

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
        options = aggregator_options(
            config,
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
        x = self.output(self.mlp_out_1, x, geometry) if self.config.mlp_out else x
        weights = x.to(p.dtype).view(p.shape[0], self.config.num_targets, len(self.projections))
        parts = torch.einsum("kab,nb->nka", self.projections.to(p.dtype), p)
        terms = torch.einsum("ntk,nka->nta", weights, parts).flatten(1)
        return geometry.sum_nodes(terms).view(-1, self.config.num_targets, 4) / self.config.scale, weights

    def forward(self, batch: JetBatch) -> Regression:
        """Predict the four-momenta of each jet."""
        momenta, weights = self.read_out(self.through_blocks(batch))
        return Regression(momenta, weights, batch.lengths + len(self.config.spurions))
