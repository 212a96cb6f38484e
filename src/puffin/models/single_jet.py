"""A trained PELICAN network for one jet at a time, in plain tensor operations, for export.

Training works on packed batches through kernels and index tables.  Here pair features are (n, n, C): x[i, j] is the
pair (i, j), and the same mathematics needs nothing that an exporter cannot follow, for any n.  The layers are those of
the trained network, parameters, tables of maps and small products included; only what touches pairs is written anew.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.errors import InputError
from puffin.layers.aggregators import Eq1to2, Eq2to0, Eq2to1, Eq2to2, EventGeometry
from puffin.layers.input_encoder import InputEncoder
from puffin.layers.lorentz import COMPONENTS, WITHOUT_DOT_PRODUCT, minkowski
from puffin.layers.masked_batchnorm import MaskedBatchNorm
from puffin.layers.mlp import MLP, MessageNet
from puffin.models.pelican import PelicanBackbone, PelicanClassifier, PelicanRegressor


@dataclass(frozen=True)
class _OneEvent(EventGeometry):
    """The geometry of a batch of one, without index tables: what is of the event (1, C) broadcasts over its nodes."""

    def sum_nodes(self, x: Tensor) -> Tensor:
        return (x if self.weights is None else x * self.weights[:, None]).sum(0, keepdim=True)

    def extremum_of_nodes(self, x: Tensor, largest: bool) -> Tensor:
        return (torch.amax if largest else torch.amin)(x, 0, keepdim=True)

    def to_nodes(self, x: Tensor) -> Tensor:
        return x


class _FromDensePairs:
    """How the aggregators below read pairs; their small products and outputs are those of the packed layers."""

    def begin(self, x: Tensor, geometry: EventGeometry) -> tuple[Tensor, dict[str, Tensor]]:
        """The pairs (n, n, C), and their quantities by name."""
        nodes = torch.arange(x.shape[0], device=x.device)
        rows, columns = x, x
        if geometry.weights is not None:
            rows, columns = x * geometry.weights[None, :, None], x * geometry.weights[:, None, None]
        base = {"pairs": x, "diagonal": x[nodes, nodes], "row sums": rows.sum(1), "column sums": columns.sum(0)}
        return x, base

    def quantities(self, letter, base, geometry):
        if letter.lower() in "sm":
            return super().quantities(letter, base, geometry)
        largest = letter.lower() == "x"
        extremum = torch.amax if largest else torch.amin
        rows = extremum(base["pairs"], 1)
        extrema = {
            "rows": rows,
            "columns": extremum(base["pairs"], 0),
            "trace": geometry.extremum_of_nodes(base["diagonal"], largest),
            "total": geometry.extremum_of_nodes(rows, largest),
        }
        return self.logarithmic(letter, extrema, geometry)


def _expand(u: Tensor, v: Tensor, w: Tensor | None) -> Tensor:
    """u_i + v_j, and w_i on the diagonal: (n, n, C) from three of (n, C); u may be (1, C)."""
    out = u[:, None] + v[None]
    if w is None:
        return out
    nodes = torch.arange(v.shape[0], device=v.device)
    on_diagonal = (nodes[:, None] == nodes)[:, :, None]
    return out + torch.where(on_diagonal, w[:, None], 0)


class _Dense2to2(_FromDensePairs, Eq2to2):
    def forward(self, x, geometry):
        weights = self.coefficients()
        nodes = self.mix(self.begin(x, geometry)[1], geometry, weights)
        w = nodes["w"] + self.diag_bias if self.options.diagonal else None
        x = self.activate_agg(x)
        out = x @ weights[0] + (x @ weights[1]).transpose(0, 1) + _expand(nodes["u"] + self.bias, nodes["v"], w)
        return self.activate_lin(out)


class _Dense2to1(_FromDensePairs, Eq2to1):
    pass


class _Dense2to0(_FromDensePairs, Eq2to0):
    pass


class _Dense1to2(Eq1to2):
    def forward(self, x, geometry):
        nodes = self.mix({"value": x}, geometry, self.coefficients())
        return self.activate_lin(_expand(nodes["u"] + self.bias, nodes["v"], nodes["w"]))


class _DenseMessageNet(MessageNet):
    def forward(self, x, pairs):
        x, norm = MLP.forward(self, x), self.normlayer
        if norm is None:
            return x
        if isinstance(norm, MaskedBatchNorm):
            scale, shift = norm.affine()
            return x * scale + shift
        axes = (0, 1, 2) if norm.over_channels else (0, 1)
        centred = x - x.mean(axes, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + norm.eps) * norm.weight + norm.bias


class _DenseInputEncoder(InputEncoder):
    def forward(self, x):
        a = 1e-6 + self.rank2_alphas.square()
        power = x.abs() + (1e-5 if self.irc_safe else 1)
        out = ((power.log() * a).exp() - 1) / a  # operation by operation as in training: see `_SignedPower`
        return out if self.irc_safe else out * x.sign()


_DENSE = {
    Eq1to2: _Dense1to2,
    Eq2to2: _Dense2to2,
    Eq2to1: _Dense2to1,
    Eq2to0: _Dense2to0,
    MessageNet: _DenseMessageNet,
    InputEncoder: _DenseInputEncoder,
}


class SingleJet(nn.Module):
    """A copy of a trained network, in eval mode; heads are its subclasses.

    scale: factor that is put on the momenta first (the --scale of the training, where momenta in GeV are to go in).
    InputError for networks that ask for the soft-drop multiplicity.
    """

    outputs: tuple[str, str]  # names

    def __init__(self, model: PelicanBackbone, scale: float = 1.0):
        super().__init__()
        config = model.config
        if config.irc_safe and set(config.config + config.config_out) != {"s"}:
            raise InputError(
                f"irc_safe with the letters {config.config!r} and {config.config_out!r}: expected 's' alone; others "
                "ask for the soft-drop multiplicity, which clusters particle by particle and cannot be exported"
            )
        self.scale = scale
        self.network = copy.deepcopy(model)
        for layer in self.network.modules():
            layer.__class__ = _DENSE.get(type(layer), type(layer))  # the same parameters, another forward
        self.eval()

    def through_blocks(self, p: Tensor, scalars: Tensor | None) -> tuple[Tensor, EventGeometry, Tensor]:
        """The output of the last block (n', n', C), the event, and the momenta (n', 4), spurions first."""
        network, config = self.network, self.network.config
        if self.scale != 1:
            p = p * self.scale
        if config.spurions:
            p, scalars = _prepend_spurions(p, scalars, config.spurions)
        left, right = p[:, None], p[None]
        dots = minkowski(left, right)[:, :, None]
        inputs, weights = dots, None
        if config.method == "input" and COMPONENTS[config.stabilizer]:
            forms = p @ p.new_tensor(COMPONENTS[config.stabilizer]).t()
            inputs = forms[:, None] * forms[None]
            inputs = inputs if config.stabilizer in WITHOUT_DOT_PRODUCT else torch.cat([inputs, dots], 2)
        if config.irc_safe:
            inputs, weights = _irc(inputs, dots)
        geometry = _OneEvent(None, torch.ones_like(p[:, :1]).sum(0, keepdim=True), weights)
        x = network.input_encoder(network.linear(inputs))
        if config.num_labels:
            x = torch.cat([x, network.eq1to2(scalars, geometry)], 2)
        return network.net2to2(x, geometry), geometry, p


def _prepend_spurions(p: Tensor, scalars: Tensor | None, spurions: tuple) -> tuple[Tensor, Tensor]:
    """The spurions, then the particles: momenta (n', 4), and scalars with one-hot labels (see `prepend_spurions`)."""
    labels = F.pad(torch.ones_like(p[:, :1]), (0, len(spurions)))
    of_spurions = torch.eye(1 + len(spurions), dtype=p.dtype, device=p.device)[1:]
    if scalars is not None:
        labels, of_spurions = torch.cat([scalars, labels], 1), F.pad(of_spurions, (scalars.shape[1], 0))
    return torch.cat([p.new_tensor(spurions), p]), torch.cat([of_spurions, labels])


def _irc(inputs: Tensor, dots: Tensor) -> tuple[Tensor, Tensor]:
    """Angles (n, n, K) and the weights (n,) of nodes: `irc_angles` and `irc_weights` for one jet."""
    sums = dots.sum(1)
    total = sums.sum(0)
    total = torch.where(total == 0, 1, total)
    scale = sums / total.abs().sqrt()
    return 2 * inputs / (1e-12 + scale[:, None] * scale[None]), (sums / total)[:, 0]


class SingleJetClassifier(SingleJet):
    """fourmomenta (n, 4), n >= 1, scalars (n, S) or None -> scores (K,) before the softmax, probabilities (K,)."""

    outputs = ("scores", "probabilities")

    def forward(self, fourmomenta: Tensor, scalars: Tensor | None = None) -> tuple[Tensor, Tensor]:
        network = self.network
        x, geometry, _ = self.through_blocks(fourmomenta, scalars)
        x = network.agg_2to0(network.msg_2to0(x, None), geometry)
        scores = (network.mlp_out(x) if network.config.mlp_out else x)[0]
        return scores, scores.softmax(0)


class SingleJetRegressor(SingleJet):
    """fourmomenta (n, 4), n >= 1, scalars (n, S) or None -> momenta (T, 4), weights (n', T, K), spurions first."""

    outputs = ("momenta", "weights")

    def forward(self, fourmomenta: Tensor, scalars: Tensor | None = None) -> tuple[Tensor, Tensor]:
        network = self.network
        x, geometry, p = self.through_blocks(fourmomenta, scalars)
        x = network.agg_2to1(network.msg_2to1(x, None), geometry)
        x = network.mlp_out_1(x) if network.config.mlp_out else x
        weights = x.reshape(-1, network.config.num_targets, network.projections.shape[0])
        parts = torch.einsum("kab,nb->nka", network.projections.to(p.dtype), p)
        momenta = torch.einsum("ntk,nka->nta", weights, parts).sum(0) / network.config.scale
        return momenta, weights


def single_jet(model: PelicanClassifier | PelicanRegressor, scale: float = 1.0) -> SingleJet:
    """The network for one jet that computes what `model` does for each jet of a batch."""
    return (SingleJetClassifier if isinstance(model, PelicanClassifier) else SingleJetRegressor)(model, scale)
