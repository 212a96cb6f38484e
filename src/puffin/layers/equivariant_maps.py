"""Linear permutation-equivariant layers between ranks: Eq1to2, Eq2to2, Eq2to1, Eq2to0.

The 15 maps of Eq2to2 are never built.  All but the first two depend on one index or none, so that the layer is two
(P, C) x (C, S) products and a few small ones on nodes (spec section 3).  Each layer is a table of its maps:
which quantity (diagonal, rows, columns, trace, total) goes where (u: to every pair of row i; v: of column j;
w: to the diagonal pair), in the order of the published coefficients.
Source: arXiv 2211.00454, sec. 3; Maron et al., arXiv 1812.09902.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from puffin.layers.activations import make_activation
from puffin.layers.normalised import Normalised, as_tensor
from puffin.ops.pair_index import PairIndex
from puffin.ops.pairs import pair_expand, pair_extremum, pair_mix, pair_sums
from puffin.ops.segments import segment_expand, segment_extremum, segment_sum

LETTERS = "smxnSMXN"


@dataclass(frozen=True)
class EventGeometry:
    """The events that a batch of features belongs to.

    multiplicity (B, 1): the n of means and of (n / nbar)^alpha.  weights (N,): of IRC-safe sums; None for 1.
    """

    pairs: PairIndex
    multiplicity: Tensor
    weights: Tensor | None = None

    def sum_nodes(self, x: Tensor) -> Tensor:
        """(N, C) -> (B, C), weighted."""
        x = x if self.weights is None else x * self.weights[:, None]
        return segment_sum(x, self.pairs.node_ptr)

    def extremum_of_nodes(self, x: Tensor, largest: bool) -> Tensor:
        """(N, C) -> (B, C)."""
        return segment_extremum(x, self.pairs.node_ptr, largest)

    def to_nodes(self, x: Tensor) -> Tensor:
        """(B, C) -> (N, C)."""
        return segment_expand(x, self.pairs.node_ptr, self.pairs.num_nodes)

    @cached_property
    def row_weight(self) -> Tensor:
        """(N, 1): what the weights of each row's pairs add up to."""
        if self.weights is None:
            return self.to_nodes(self.pairs.counts[:, None].to(self.multiplicity.dtype))
        return self.to_nodes(segment_sum(self.weights[:, None], self.pairs.node_ptr))


@dataclass(frozen=True)
class AggregatorOptions:
    """How an aggregator works; the defaults are those of the published scripts.

    config: letters; nobj_avg: nbar; diagonal: whether maps that touch only the diagonal take part (they are not
    collinear-safe: a split particle would get off-diagonal pairs where it had a diagonal one).
    """

    config: str = "s"
    factorize: bool = False
    nobj_avg: float = 49
    activation: str = "leakyrelu"
    activate_agg: bool = False
    activate_lin: bool = True
    diagonal: bool = True


def check_letters(config: str, irc_safe: bool = False) -> None:
    """ValueError unless `config` is a word of the letters smxn and SMXN (without max and min when IRC-safe)."""
    if not config or any(letter not in LETTERS for letter in config):
        raise ValueError(f"config: expected one or more of the letters {LETTERS}, got {config!r}")
    if irc_safe and any(letter in "xnXN" for letter in config):
        raise ValueError(f"config: max and min are not IRC-safe, got {config!r}; use the letters s, m, S, M")


class _Aggregator(nn.Module):
    """What the four layers share: coefficients, letters, exponents, bias, activations and the small products."""

    plain: tuple[tuple[str, str], ...]  # (target, quantity) of maps that aggregate nothing; the first letter's only
    summed: tuple[tuple[str, str], ...]  # of maps that aggregate; every letter has them
    first_table_map = 0  # maps before the table's first
    scale_plain = True  # whether a capital letter scales the plain maps as well
    random_alphas = False
    alpha_tail: tuple[int, ...] = ()  # published checkpoints keep the exponents broadcastable over nodes
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
        self.alphas = nn.ParameterDict()
        for k, letter in enumerate(options.config):
            if letter.isupper():
                scaled = len(self.summed) + (len(self.plain) if k == 0 and self.scale_plain else 0)
                shape = (1, in_channels, scaled, *self.alpha_tail)
                self.alphas[str(k)] = nn.Parameter(torch.rand(shape) if self.random_alphas else torch.zeros(shape))
        self.activate_agg = make_activation(options.activation) if options.activate_agg else nn.Identity()
        self.activate_lin = make_activation(options.activation) if options.activate_lin else nn.Identity()

    def coefficients(self) -> Tensor:
        """W (maps, in, out)."""
        if not self.options.factorize:
            return self.coefs.permute(2, 0, 1)
        first = self.coefs00.t()[:, :, None] * self.coefs10
        return first + self.coefs01.t()[:, None, :] * self.coefs11

    def quantities(self, letter: str, base: dict[str, Tensor], geometry: EventGeometry) -> dict[str, Tensor]:
        """The aggregated quantities by name, for one letter: of nodes (N, C), of events (B, C)."""
        raise AssertionError("each layer defines its own")

    def normalise(self, letter: str, sums: dict[str, Tensor], geometry: EventGeometry) -> dict[str, Tensor]:
        """Sums to `s` (over nbar) or `m` (over n), once for each summed index."""
        divisor = geometry.multiplicity if letter.lower() == "m" else self.options.nobj_avg
        out = {}
        for name, value in sums.items():
            d = divisor
            if letter.lower() == "m" and name in ("rows", "columns"):
                d = geometry.to_nodes(d)
            out[name] = value / (d * d if name == "total" else d)
        return out

    def logarithmic(self, letter: str, extrema: dict[str, Tensor], geometry: EventGeometry) -> dict[str, Tensor]:
        """Maximum minus log n, minimum plus log n."""
        log_n = geometry.multiplicity.log() * (-1 if letter.lower() == "x" else 1)
        return {
            name: value + (geometry.to_nodes(log_n) if name in ("rows", "columns") else log_n)
            for name, value in extrema.items()
        }

    @torch.compiler.disable  # small products on nodes; sizes of events would have them compiled again and again
    def mix(self, base: dict[str, Tensor], geometry: EventGeometry, weights: Tensor) -> dict[str, Tensor | None]:
        """The small products: for each target u, v, w the sum of its maps times their coefficients, (N, out).

        base: unaggregated quantities by name.  weights (maps, in, out).  A target without maps is None; targets of
        which every map belongs to events are (B, out)."""
        parts = weights.unbind()  # one operation; indexing would cost a tensor of zeros for each map in the gradient
        terms: dict[tuple[str, bool], list[_Term]] = {}
        index = self.first_table_map
        for k, letter in enumerate(self.options.config):
            values = base | self.quantities(letter, base, geometry)
            scales = None
            if str(k) in self.alphas:
                alpha = self.alphas[str(k)].reshape(1, self.in_channels, -1)
                scales = ((geometry.multiplicity / self.options.nobj_avg)[:, :, None] ** alpha).unbind(2)
            maps = self.plain + self.summed if k == 0 else self.summed
            unscaled = len(maps) - (0 if scales is None else len(scales))
            for m, (target, name) in enumerate(maps):
                if target != "w" or self.options.diagonal:
                    scale = scales[m - unscaled] if scales is not None and m >= unscaled else None
                    term = _Term(values[name], parts[index], scale)
                    terms.setdefault((target, name in NODE_QUANTITIES), []).append(term)
                index += 1
        if not self.options.activate_agg:
            return {t: self._product(terms.get((t, True)), terms.get((t, False)), geometry) for t in "uvw"}
        # beside a diagonal there are zeros: what activation makes of them goes to every pair, the rest to the diagonal
        rest = self.activate_agg(weights.new_zeros(1))
        out = {
            t: self._product(terms.get((t, True)), terms.get((t, False)), geometry, rest * (t == "w")) for t in "uvw"
        }
        beside = [term.weight.sum(0) for t in (True, False) for term in terms.get(("w", t), [])]
        return out | {"u": out["u"] + rest * sum(beside)} if beside else out

    def _product(self, of_nodes, of_events, geometry: EventGeometry, subtract: Tensor | None = None) -> Tensor | None:
        """Sum of terms: (N, out) if any belongs to nodes, else (B, out)."""
        products = []
        for terms, to_rows in ((of_nodes, geometry.to_nodes), (of_events, lambda x: x)):
            if not terms:
                continue
            values = torch.cat([term.value for term in terms], 1)
            if any(term.scale is not None for term in terms):
                one = geometry.multiplicity.new_ones(1, 1).expand(len(geometry.multiplicity), self.in_channels)
                values = values * to_rows(torch.cat([one if term.scale is None else term.scale for term in terms], 1))
            values = self.activate_agg(values)
            if subtract is not None:
                values = values - subtract
            products.append(values @ torch.cat([term.weight for term in terms]))
        if len(products) == 2:
            return products[0] + geometry.to_nodes(products[1])
        return products[0] if products else None


class _Term(NamedTuple):
    """A map that depends on one index or none: its value times its coefficients (in, out).

    value (N, in) or (B, in); scale (B, in): (n / nbar)^alpha, or None."""

    value: Tensor
    weight: Tensor
    scale: Tensor | None


# quantities with one row for each node; the others have one for each event
NODE_QUANTITIES = frozenset(("diagonal", "rows", "columns", "value"))


class _Pairs(NamedTuple):
    """values (P, in), to be multiplied by scale (in, 1) and shifted by shift (in,) unless these are None."""

    values: Tensor
    scale: Tensor | None
    shift: Tensor | None


class _FromPairs(_Aggregator):
    """Aggregators whose input is a pair feature."""

    activates_pairs = False  # whether activate_agg acts on the pairs themselves, not on sums alone

    def begin(self, x: Tensor | Normalised, geometry: EventGeometry) -> tuple[_Pairs, dict[str, Tensor]]:
        """The pairs as the layer reads them, and their quantities by name."""
        linear = set(self.options.config.lower()) <= set("sm") and not (
            self.activates_pairs and self.options.activate_agg
        )
        if isinstance(x, Normalised) and linear:
            values, sums = pair_sums(x.values, geometry.pairs, geometry.weights)
            diagonal = torch.addcmul(x.shift, sums.diagonal, x.scale)
            rows, columns = (s * x.scale + geometry.row_weight * x.shift for s in (sums.rows, sums.columns))
            pairs = _Pairs(values, x.scale[:, None], x.shift)
        else:
            values, (diagonal, rows, columns) = pair_sums(as_tensor(x), geometry.pairs, geometry.weights)
            pairs = _Pairs(values, None, None)
        return pairs, {"pairs": values, "diagonal": diagonal, "row sums": rows, "column sums": columns}

    def quantities(self, letter, base, geometry):
        if letter.lower() in "sm":
            rows = base["row sums"]
            sums = {
                "rows": rows,
                "columns": base["column sums"],
                "trace": geometry.sum_nodes(base["diagonal"]),
                "total": geometry.sum_nodes(rows),
            }
            return self.normalise(letter, sums, geometry)
        largest = letter.lower() == "x"
        rows, columns = pair_extremum(base["pairs"], geometry.pairs, largest)
        extrema = {
            "rows": rows,
            "columns": columns,
            "trace": geometry.extremum_of_nodes(base["diagonal"], largest),
            "total": geometry.extremum_of_nodes(rows, largest),
        }
        return self.logarithmic(letter, extrema, geometry)


class Eq2to2(_FromPairs):
    """Pairs to pairs: x (P, in) -> (P, out)."""

    first_table_map = 2  # T_ij and T_ji
    activates_pairs = True
    plain = (("w", "diagonal"), ("v", "diagonal"), ("u", "diagonal"))
    summed = (
        ("w", "columns"),
        ("v", "columns"),
        ("u", "columns"),
        ("w", "rows"),
        ("v", "rows"),
        ("u", "rows"),
        ("u", "trace"),
        ("w", "trace"),
        ("u", "total"),
        ("w", "total"),
    )
    scale_plain = False
    random_alphas = True
    alpha_tail = (1, 1)

    def __init__(self, in_channels: int, out_channels: int, options: AggregatorOptions):
        super().__init__(in_channels, out_channels, options)
        if options.diagonal:
            self.diag_bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor | Normalised, geometry: EventGeometry) -> Tensor:
        weights = self.coefficients()
        pairs, base = self.begin(x, geometry)
        nodes = self.mix(base, geometry, weights)
        direct, transposed, bias = weights[0], weights[1], self.bias
        if pairs.scale is not None:
            bias = bias + pairs.shift @ (direct + transposed)
            direct, transposed = pairs.scale * direct, pairs.scale * transposed
        w = nodes["w"] + self.diag_bias if self.options.diagonal else None
        fused = isinstance(self.activate_lin, nn.LeakyReLU)
        slope = self.activate_lin.negative_slope if fused else 1.0
        nodes = (nodes["u"] + bias, nodes["v"], w)
        out = pair_mix(self.activate_agg(pairs.values), direct, transposed, nodes, geometry.pairs, slope)
        return out if fused else self.activate_lin(out)


class Eq2to1(_FromPairs):
    """Pairs to nodes: x (P, in) -> (N, out)."""

    plain = (("u", "diagonal"),)
    summed = (("u", "rows"), ("u", "columns"), ("u", "trace"), ("u", "total"))
    alpha_tail = (1,)

    def forward(self, x: Tensor | Normalised, geometry: EventGeometry) -> Tensor:
        nodes = self.mix(self.begin(x, geometry)[1], geometry, self.coefficients())
        return self.activate_lin(nodes["u"] + self.bias)


class Eq2to0(_FromPairs):
    """Pairs to events: x (P, in) -> (B, out)."""

    plain = ()
    summed = (("u", "total"), ("u", "trace"))
    random_alphas = True
    coefficient_gain = 4.0

    def __init__(self, in_channels: int, out_channels: int, options: AggregatorOptions):
        super().__init__(in_channels, out_channels, options)
        self.bias = nn.Parameter(torch.zeros(1, out_channels))  # the published shape

    def forward(self, x: Tensor | Normalised, geometry: EventGeometry) -> Tensor:
        events = self.mix(self.begin(x, geometry)[1], geometry, self.coefficients())
        return self.activate_lin(events["u"] + self.bias)


class Eq1to2(_Aggregator):
    """Nodes to pairs: x (N, in) -> (P, out)."""

    plain = (("w", "value"), ("v", "value"), ("u", "value"))
    summed = (("w", "aggregate"), ("u", "aggregate"))
    alpha_tail = (1, 1)

    def quantities(self, letter, base, geometry):
        if letter.lower() in "sm":
            return self.normalise(letter, {"aggregate": geometry.sum_nodes(base["value"])}, geometry)
        extremum = geometry.extremum_of_nodes(base["value"], letter.lower() == "x")
        return self.logarithmic(letter, {"aggregate": extremum}, geometry)

    def forward(self, x: Tensor, geometry: EventGeometry) -> Tensor:
        nodes = self.mix({"value": x}, geometry, self.coefficients())
        return self.activate_lin(pair_expand(nodes["u"] + self.bias, nodes["v"], nodes["w"], geometry.pairs))
