"""The base of linear permutation-equivariant layers: coefficients, letters, and the small products on nodes.

Each layer (aggregators.py) is a table of maps.  A map takes a quantity (the diagonal of a pair feature, its row sums,
column sums, trace or total) to a target: "u" adds it to every pair of row i, "v" to every pair of column j, "w" to the
diagonal pair.  All these maps depend on one index or none, so they cost products on nodes only.
Source: docs/MATHEMATICS_PELICAN.md, section 3; arXiv 2211.00454, sec. 3; Maron et al., arXiv 1812.09902.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from puffin.layers.activations import make_activation
from puffin.layers.pair_geometry import PairGeometry
from puffin.ops.equivariant_nodes import QUANTITIES, TARGETS, Map, Mapped
from puffin.ops.low_rank import low_rank
from puffin.settings.letters import all_linear, check_letters, has_exponent, letter

# quantities with one row for each node; the others have one for each event
NODE_QUANTITIES = frozenset(("diagonal", "rows", "columns", "value"))
# names of the quantities of a feature of nodes -> of a pair feature, as whose diagonal the operator takes it
_OF_PAIRS = {"value": "diagonal", "aggregate": "trace"}


@dataclass(frozen=True)
class AggregatorOptions:
    """How an aggregator works; the defaults are those of the published scripts.

    config: letters (settings/letters.py).  nobj_avg: nbar, the average number of particles.  factorize: coefficients of
    low rank.  activate_agg, activate_lin: apply the activation to the aggregated quantities, and to the result.
    diagonal: keep the maps that touch only the diagonal.  These are not collinear-safe: a particle that is split in two
    has off-diagonal pairs where it had a diagonal one.
    """

    config: str = "s"
    factorize: bool = False
    nobj_avg: float = 49
    activation: str = "leakyrelu"
    activate_agg: bool = False
    activate_lin: bool = True
    diagonal: bool = True


class _NamedMap(NamedTuple):
    """A map of a layer: its letter, names of target and quantity, and the column of its exponents or None."""

    letter: str
    target: str
    quantity: str
    exponent: int | None
    plain: bool


class _Term(NamedTuple):
    """The value of a map times its coefficients (in, out).

    value (N, in) or (B, in); scale (B, in): (n / nbar)^alpha, or None.
    """

    value: Tensor
    weight: Tensor
    scale: Tensor | None


class Aggregator(nn.Module):
    """The shared part of the four layers: coefficients, letters, exponents, bias, activations and small products.

    A subclass lists its maps as pairs (target, quantity), in the order of the published coefficients.
    """

    plain: tuple[tuple[str, str], ...]  # maps that aggregate nothing; only the first letter has them
    summed: tuple[tuple[str, str], ...]  # maps that aggregate; every letter has them
    first_table_map = 0  # number of coefficients before those of the table
    scale_plain = True  # whether a capital letter also scales the plain maps
    random_alphas = False
    alpha_tail: tuple[int, ...] = ()  # trailing axes of the exponents in published checkpoints
    coefficient_gain = 2.0

    def __init__(self, in_channels: int, out_channels: int, options: AggregatorOptions):
        super().__init__()
        check_letters(options.config)
        self.in_channels, self.options = in_channels, options
        num_maps = self.first_table_map + len(self.plain) + len(self.summed) * len(options.config)
        if options.factorize:
            self.coefs00 = nn.Parameter(torch.randn(in_channels, num_maps) / math.sqrt(num_maps))
            self.coefs01 = nn.Parameter(torch.randn(out_channels, num_maps) / math.sqrt(num_maps))
            self.coefs10 = nn.Parameter(torch.randn(in_channels, out_channels) / math.sqrt(in_channels))
            self.coefs11 = nn.Parameter(torch.randn(in_channels, out_channels) / math.sqrt(in_channels))
        else:
            std = math.sqrt(self.coefficient_gain / (in_channels * num_maps))
            self.coefs = nn.Parameter(std * torch.randn(in_channels, out_channels, num_maps))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_parameter("diag_bias", None)
        self.alphas = nn.ParameterDict()
        for k, name in enumerate(options.config):
            if has_exponent(name):
                scaled = len(self.summed) + (len(self.plain) if k == 0 and self.scale_plain else 0)
                shape = (1, in_channels, scaled, *self.alpha_tail)
                self.alphas[str(k)] = nn.Parameter(torch.rand(shape) if self.random_alphas else torch.zeros(shape))
        self.activate_agg = make_activation(options.activation) if options.activate_agg else nn.Identity()
        self.activate_lin = make_activation(options.activation) if options.activate_lin else nn.Identity()

    def coefficients(self) -> Tensor:
        """Return the coefficients of all maps (maps, in, out)."""
        if not self.options.factorize:
            return self.coefs.permute(2, 0, 1)
        return low_rank(self.coefs00, self.coefs01, self.coefs10, self.coefs11)

    def exponents(self) -> Tensor | None:
        """Return the exponents of all maps that have one (in, exponents); None if no map has."""
        alphas = [alpha.reshape(self.in_channels, -1) for alpha in self.alphas.values()]
        return torch.cat(alphas, 1) if len(alphas) > 1 else (alphas or [None])[0]

    @cached_property
    def maps(self) -> tuple[_NamedMap, ...]:
        """The maps of the table, in the order of their coefficients, which follow the first `first_table_map`."""
        maps, exponent = [], 0
        for k, name in enumerate(self.options.config):
            for group in (self.plain, self.summed) if k == 0 else (self.summed,):
                scaled = has_exponent(name) and (group is self.summed or self.scale_plain)
                for target, quantity in group:
                    maps.append(_NamedMap(name, target, quantity, exponent if scaled else None, group is self.plain))
                    exponent += scaled
        return tuple(maps)

    @property
    def is_linear(self) -> bool:
        """Whether the operator `equivariant_nodes` computes this layer."""
        return all_linear(self.options.config) and not self.options.activate_agg

    @cached_property
    def table(self) -> tuple[Map, ...]:
        """The maps as the operator `equivariant_nodes` takes them, if the layer is linear."""
        table = [Map(-1, 0)] * self.first_table_map
        for m in self.maps:
            quantity = _OF_PAIRS.get(m.quantity, m.quantity)
            target = TARGETS.index(m.target) if m.target != "w" or self.options.diagonal else -1
            divisions = 0 if m.plain else 2 if quantity == "total" else 1
            by_n = divisions if letter(m.letter).divide_by == "n" else 0
            exponent = -1 if m.exponent is None else m.exponent
            table.append(Map(target, QUANTITIES.index(quantity), exponent, divisions - by_n, by_n))
        return tuple(table)

    def reduced(self, reduction: str, base: dict[str, Tensor], geometry: PairGeometry) -> dict[str, Tensor]:
        """Return the quantities reduced by "sum", "max" or "min" by name: of nodes (N, C), of events (B, C)."""
        raise AssertionError("each layer defines its own")

    def aggregated(self, name: str, base: dict[str, Tensor], geometry: PairGeometry) -> dict[str, Tensor]:
        """Return the quantities as the letter called `name` aggregates them."""
        rule = letter(name)
        quantities = self.reduced(rule.reduction, base, geometry)
        if rule.divide_by is not None:
            n = geometry.multiplicity if rule.divide_by == "n" else self.options.nobj_avg
            for quantity, value in quantities.items():
                divisor = geometry.to_nodes(n) if rule.divide_by == "n" and quantity in NODE_QUANTITIES else n
                # a total is a sum over two indices
                quantities[quantity] = value / (divisor * divisor if quantity == "total" else divisor)
        if rule.add_log_n:
            shift = geometry.multiplicity.log() * rule.add_log_n
            for quantity, value in quantities.items():
                quantities[quantity] = value + (geometry.to_nodes(shift) if quantity in NODE_QUANTITIES else shift)
        return quantities

    def base(self, quantities: tuple[Tensor, ...], pairs: Tensor | None, geometry: PairGeometry) -> dict[str, Tensor]:
        """Return the quantities before aggregation by name."""
        raise AssertionError("each layer defines its own")

    @torch.compiler.disable  # small products on nodes: compiled, they would be compiled again for each batch size
    def map_nodes(
        self,
        quantities: tuple[Tensor, ...],
        geometry: PairGeometry,
        pairs: Tensor | None = None,
        normalisation: tuple[Tensor, Tensor] | None = None,
    ) -> Mapped:
        """Compute all that the layer does before it writes pairs: see `equivariant_nodes`.

        quantities (N, in) each: the value of nodes, or the diagonal, row sums and column sums of `pairs` before these
        are multiplied by scale (in,) and shifted by shift (in,) (None: they are not).
        """
        coefficients, bias = self.coefficients(), self.bias.view(-1)
        if self.is_linear and geometry.has_node_kernel(quantities[0]):
            biases = bias, self.diag_bias
            is_of_pairs, nbar = self.first_table_map > 0, self.options.nobj_avg
            given = quantities, normalisation, coefficients, self.exponents(), biases, self.table, is_of_pairs, nbar
            return geometry.map_nodes(*given)
        if normalisation is not None:
            scale, shift = normalisation
            diagonal, *sums = quantities
            sums = (s * scale + geometry.row_weight * shift for s in sums)
            quantities = torch.addcmul(shift, diagonal, scale), *sums
        nodes = self.mix(self.base(quantities, pairs, geometry), geometry, coefficients)
        even = odd = coefficients[:0]
        if self.first_table_map:
            direct, transposed = coefficients[0], coefficients[1]
            if normalisation is not None:
                bias = bias + shift @ (direct + transposed)
                direct, transposed = scale[:, None] * direct, scale[:, None] * transposed
            even, odd = (direct + transposed) / 2, (direct - transposed) / 2
        w = nodes["w"] if self.diag_bias is None else nodes["w"] + self.diag_bias
        return Mapped(nodes["u"] + bias, nodes["v"], w, even, odd)

    def mix(self, base: dict[str, Tensor], geometry: PairGeometry, weights: Tensor) -> dict[str, Tensor | None]:
        """For each target u, v, w return the sum of its maps times their coefficients: (N, out).

        base: quantities before aggregation, by name.  weights (maps, in, out).  A target without maps is None; one
        whose maps all belong to events is (B, out).
        """
        terms = self._terms(base, geometry, weights)
        constant = self.activate_agg(weights.new_zeros(1)) if self.options.activate_agg else None
        out = self._products(terms, True, geometry, constant)
        of_events = self._products(terms, False, geometry, constant)
        both = [target for target in of_events if target in out]
        if both:
            expanded = geometry.to_nodes(torch.cat([of_events[target] for target in both], 1))
            for target, product in zip(both, expanded.split(weights.shape[2], 1), strict=True):
                out[target] = out[target] + product
        out = {target: out.get(target, of_events.get(target)) for target in TARGETS}
        if constant is None:
            return out
        # A diagonal map is 0 off the diagonal, which the activation may turn into another constant: add that to every
        # pair, and only the difference from it to the diagonal.
        of_diagonal = [term.weight.sum(0) for kind in (True, False) for term in terms.get(("w", kind), [])]
        return out | {"u": out["u"] + constant * sum(of_diagonal)} if of_diagonal else out

    def _terms(
        self, base: dict[str, Tensor], geometry: PairGeometry, weights: Tensor
    ) -> dict[tuple[str, bool], list[_Term]]:
        """Group the maps by target and by whether their quantity belongs to nodes (True) or events (False)."""
        # one operation; indexing would add a tensor of zeros per map to the gradient
        coefficients = weights.unbind()[self.first_table_map :]
        values = {name: base | self.aggregated(name, base, geometry) for name in self.options.config}
        alphas, scales = self.exponents(), ()
        if alphas is not None:
            scales = ((geometry.multiplicity / self.options.nobj_avg)[:, :, None] ** alphas).unbind(2)
        terms: dict[tuple[str, bool], list[_Term]] = {}
        for m, weight in zip(self.maps, coefficients, strict=True):
            if m.target != "w" or self.options.diagonal:
                scale = None if m.exponent is None else scales[m.exponent]
                term = _Term(values[m.letter][m.quantity], weight, scale)
                terms.setdefault((m.target, m.quantity in NODE_QUANTITIES), []).append(term)
        return terms

    def _products(
        self,
        terms: dict[tuple[str, bool], list[_Term]],
        of_nodes: bool,
        geometry: PairGeometry,
        constant: Tensor | None,
    ) -> dict[str, Tensor]:
        """For each target add up the terms of nodes, (N, out), or those of events, (B, out).

        The values of all targets are one table: networks are small, so the number of operations decides their time.
        constant: what the activation makes of 0, which is subtracted from the values of target w."""
        groups = {target: terms[target, of_nodes] for target in TARGETS if (target, of_nodes) in terms}
        if not groups:
            return {}
        every = [term for group in groups.values() for term in group]
        values = torch.cat([term.value for term in every], 1)
        if any(term.scale is not None for term in every):
            one = geometry.multiplicity.new_ones(1, 1).expand(len(geometry.multiplicity), self.in_channels)
            scales = torch.cat([one if term.scale is None else term.scale for term in every], 1)
            values = values * (geometry.to_nodes(scales) if of_nodes else scales)
        parts = self.activate_agg(values).split([len(group) * self.in_channels for group in groups.values()], 1)
        products = {}
        for (target, group), part in zip(groups.items(), parts, strict=True):
            if constant is not None and target == "w":
                part = part - constant
            products[target] = part @ torch.cat([term.weight for term in group])
        return products
