"""The maps of an equivariant layer that depend on one index or none, all at once.

A map adds factor * quantity * coefficients to a target.  Quantities are the diagonal, the row sums and the column sums
of a pair feature, one row for each node, and the trace and the total of each event.  A map to u adds to every pair of
row i, one to v to every pair of column j, one to w to the diagonal pair.  The factor (n / nbar)^alpha / (nbar^a n^b) is
one number for each event and channel.  So all maps of nodes are one matrix for each event.  The kernel multiplies by it
event after event, in a fixed order, while everything is in the cache.
Source: docs/MATHEMATICS_PELICAN.md, section 3; arXiv 2211.00454, sec. 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from puffin.ops import library

FORWARD = (
    "equivariant_nodes(Tensor[] quantities, Tensor scale, Tensor shift, Tensor coefficients, Tensor alphas, "
    "Tensor bias, Tensor? diagonal_bias, Tensor? weights, Tensor multiplicity, Tensor node_ptr, int[] maps, "
    "bool pairs, float nbar) -> (Tensor[], Tensor, Tensor, Tensor)"
)
BACKWARD = (
    "equivariant_nodes_backward(Tensor[] grads, Tensor grad_even, Tensor grad_odd, Tensor factors, "
    "Tensor[] quantities, Tensor scale, Tensor shift, Tensor coefficients, Tensor alphas, Tensor? weights, "
    "Tensor multiplicity, Tensor node_ptr, int[] maps, bool pairs, float nbar)"
    " -> (Tensor[], Tensor, Tensor, Tensor, Tensor, Tensor)"
)
TARGETS = ("u", "v", "w")
QUANTITIES = ("diagonal", "rows", "columns", "trace", "total")


class Map(NamedTuple):
    """One map: indices into TARGETS (-1: the map takes no part) and QUANTITIES, and its factor.

    exponent: column of the exponents, or -1 for alpha = 0.  by_nbar, by_n: the powers of nbar and n that divide.
    """

    target: int
    quantity: int
    exponent: int = -1
    by_nbar: int = 0
    by_n: int = 0


class EventNodes(NamedTuple):
    """The nodes of a batch.

    node_ptr (B + 1,) int64: first node of each event.  multiplicity (B, 1): n > 0.  weights (N,) or None: of the sums
    over nodes that make the trace and the total, and of the pairs that a row sum has added.
    """

    node_ptr: Tensor
    multiplicity: Tensor
    weights: Tensor | None


class Mapped(NamedTuple):
    """What the maps give: u, v, w (N, S), or None for targets without maps, and the weights of `pair_mix` (C, S).

    u is (B, S) if all maps belong to events.  even and odd have no rows unless the layer maps pairs to pairs.
    """

    u: Tensor
    v: Tensor | None
    w: Tensor | None
    even: Tensor
    odd: Tensor


class Where(NamedTuple):
    """The last arguments of both operators, which have no gradients."""

    weights: Tensor | None
    multiplicity: Tensor
    node_ptr: Tensor
    maps: list[int]
    pairs: bool
    nbar: float


@torch.compiler.disable
def equivariant_nodes(
    quantities: tuple[Tensor, ...],
    normalisation: tuple[Tensor, Tensor] | None,
    coefficients: Tensor,
    alphas: Tensor | None,
    biases: tuple[Tensor, Tensor | None],
    nodes: EventNodes,
    maps: tuple[Map, ...],
    pairs: bool,
    nbar: float,
) -> Mapped:
    """Return the sums of all maps for each target, with biases; differentiable once.

    quantities: the diagonal, or diagonal, row sums and column sums, (N, C) each, of a pair feature before it is
    multiplied by the scale (C,) and shifted by the shift (C,) of `normalisation` (None: it is not).
    coefficients (maps, C, S), in the order of `maps`; alphas (C, exponents).  biases: of u and of w, (S,) each.
    pairs: the first two maps are those of a pair and of its transpose; they take no part here, but give `even` and
    `odd`, half the sum and half the difference of their coefficients, times the scale, and the part of the shift in u.

    >>> x, one = torch.tensor([[1.0], [2.0]]), torch.ones(1, 1)  # an event of two nodes
    >>> nodes = EventNodes(torch.tensor([0, 2]), 2 * one, None)
    >>> maps = Map(0, QUANTITIES.index("diagonal")), Map(0, QUANTITIES.index("trace"), by_nbar=1)  # x_i + sum x / nbar
    >>> equivariant_nodes((x,), None, torch.ones(2, 1, 1), None, (torch.zeros(1), None), nodes, maps, False, 3.0).u
    tensor([[2.],
            [3.]])
    """
    channels = coefficients.shape[1]
    if normalisation is None:
        normalisation = coefficients.new_ones(channels), coefficients.new_zeros(channels)
    if alphas is None:
        alphas = coefficients.new_empty(channels, 0)
    where = Where(nodes.weights, nodes.multiplicity, nodes.node_ptr, flat(maps), pairs, nbar)
    even, odd, *targets = _EquivariantNodes.apply(where, *biases, *normalisation, coefficients, alphas, *quantities)
    u, v, w = [*targets, None, None][: len(TARGETS)]
    return Mapped(u, v, w, even, odd)


class _EquivariantNodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, where, bias, diagonal_bias, scale, shift, coefficients, alphas, *quantities):
        targets, even, odd, factors = torch.ops.puffin.equivariant_nodes(
            quantities, scale, shift, coefficients, alphas, bias, diagonal_bias, *where
        )
        ctx.where, ctx.has_diagonal_bias = where, diagonal_bias is not None
        ctx.save_for_backward(factors, scale, shift, coefficients, alphas, *quantities)
        return even, odd, *targets

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_even, grad_odd, *grads):
        factors, scale, shift, coefficients, alphas, *quantities = ctx.saved_tensors
        of_quantities, *of_shared, of_biases = torch.ops.puffin.equivariant_nodes_backward(
            grads, grad_even, grad_odd, factors, quantities, scale, shift, coefficients, alphas, *ctx.where
        )
        of_diagonal_bias = of_biases[2] if ctx.has_diagonal_bias else None
        return None, of_biases[0], of_diagonal_bias, *of_shared, *of_quantities


def flat(maps: tuple[Map, ...]) -> list[int]:
    """Return the numbers of all maps, one after another, as the operators take them."""
    return [number for m in maps for number in m]


# -- oracle: one map after another -----------------------------------------------------------------------------------


def _read(numbers: list[int]) -> list[Map]:
    size = len(Map._fields)
    return [Map(*numbers[k : k + size]) for k in range(0, len(numbers), size)]


def _num_targets(maps: list[Map]) -> int:
    return 1 + max([0, *(m.target for m in maps)])


def _any_of_nodes(maps: list[Map]) -> bool:
    return any(m.target >= 0 and m.quantity < QUANTITIES.index("trace") for m in maps)


def _oracle(quantities, scale, shift, coefficients, alphas, bias, diagonal_bias, *where):
    weights, multiplicity, node_ptr, numbers, pairs, nbar = where
    maps, events = _read(numbers), len(node_ptr) - 1
    event = torch.repeat_interleave(node_ptr.diff(), output_size=len(quantities[0]))
    own = scale.new_ones(len(event), 1) if weights is None else weights[:, None]

    def sum_nodes(x):
        return x.new_zeros(events, x.shape[1]).index_add(0, event, x)

    row_weight = sum_nodes(own)[event]
    values = [x * scale + (row_weight if q else 1) * shift for q, x in enumerate(quantities)]
    values += [None] * (3 - len(values)) + [sum_nodes(own * x) for x in values[:2]]
    rows = len(event) if _any_of_nodes(maps) else events
    targets = [
        torch.zeros(rows, bias.shape[0], dtype=bias.dtype, device=bias.device) for _ in range(_num_targets(maps))
    ]
    targets[0] = targets[0] + bias
    if diagonal_bias is not None:
        targets[2] = targets[2] + diagonal_bias
    factors = []
    for m, weight in zip(maps, coefficients, strict=True):
        alpha = alphas[:, m.exponent] if m.exponent >= 0 else torch.zeros_like(scale)
        factors.append((multiplicity / nbar) ** alpha / (nbar**m.by_nbar * multiplicity**m.by_n))
        if m.target >= 0:
            value, factor = values[m.quantity], factors[-1]
            of_nodes = len(value) == len(event)
            product = (value * (factor[event] if of_nodes else factor)) @ weight
            targets[m.target] = targets[m.target] + (product if of_nodes or rows == events else product[event])
    even = odd = coefficients.new_empty(0, coefficients.shape[2])
    if pairs:
        direct, transposed = coefficients[0], coefficients[1]
        targets[0] = targets[0] + shift @ (direct + transposed)
        even, odd = scale[:, None] * (direct + transposed) / 2, scale[:, None] * (direct - transposed) / 2
    return targets, even, odd.clone(), torch.stack(factors, 1)


def _backward_oracle(grads, grad_even, grad_odd, factors, quantities, scale, shift, coefficients, alphas, *where):
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (*quantities, scale, shift, coefficients, alphas)]
        no_bias = scale.new_zeros(coefficients.shape[2], requires_grad=True)
        targets, even, odd, _ = _oracle(inputs[:-4], *inputs[-4:], no_bias, None, *where)
        found = torch.autograd.grad(
            [*targets, even, odd], inputs, [*grads, grad_even, grad_odd], allow_unused=True, materialize_grads=True
        )
    return list(found[:-4]), *found[-4:], torch.stack([g.sum(0) for g in grads])


# -- shapes of the results --------------------------------------------------------------------------------------------


def _fake(quantities, scale, shift, coefficients, alphas, bias, diagonal_bias, *where):
    where = Where(*where)
    maps, (count, channels, width) = _read(where.maps), coefficients.shape
    events = where.multiplicity.shape[0]
    rows = quantities[0].shape[0] if _any_of_nodes(maps) else events
    targets = [bias.new_empty(rows, width) for _ in range(_num_targets(maps))]
    even, odd = (bias.new_empty(channels if where.pairs else 0, width) for _ in range(2))
    return targets, even, odd, bias.new_empty(events, count, channels)


def _backward_fake(grads, grad_even, grad_odd, factors, quantities, scale, shift, coefficients, alphas, *_):
    given = [x.new_empty(x.shape) for x in (*quantities, scale, shift, coefficients, alphas)]
    return given[:-4], *given[-4:], scale.new_empty(len(grads), coefficients.shape[2])


library.define(FORWARD, _oracle, _fake, cpu_only=True)
library.define(BACKWARD, _backward_oracle, _backward_fake, cpu_only=True)
