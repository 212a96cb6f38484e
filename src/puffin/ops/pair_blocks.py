"""All blocks of a network for inference: message, normalisation, maps of nodes and mixing, again and again.

The kernel takes a few events at a time through all blocks.  Their tables of pairs stay in the cache, where operators on
whole batches would write each table to memory and read it again.  The numbers are those of the operators.
Source: arXiv 2307.16506, sec. 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.equivariant_nodes import EventNodes, Map, flat
from puffin.ops.pair_index import PairIndex

FORWARD = (
    "pair_blocks(Tensor x, Tensor[] message_weights, Tensor[] message_biases, Tensor[] scales, Tensor[] shifts, "
    "Tensor[] coefficients, Tensor[] alphas, Tensor[] biases, Tensor[] diagonal_biases, Tensor? weights, "
    "Tensor multiplicity, Tensor node_ptr, Tensor upper_ptr, int[] maps, float message_slope, float mix_slope, "
    "float nbar) -> Tensor"
)


class Block(NamedTuple):
    """The numbers of a block: a message from C to M channels, and an equivariant layer from M to S.

    weight (M, C), bias (M,) of the message; scale, shift (M,) of its normalisation; coefficients (maps, M, S), alphas
    (M, exponents), bias and diagonal_bias (S,) of the layer, the latter None if it has no map to the diagonal.
    """

    message_weight: Tensor
    message_bias: Tensor
    scale: Tensor
    shift: Tensor
    coefficients: Tensor
    alphas: Tensor
    bias: Tensor
    diagonal_bias: Tensor | None


class BlockOptions(NamedTuple):
    """What all blocks share: slopes 0..1 of their leaky ReLUs, their maps, and the average multiplicity."""

    message_slope: float
    mix_slope: float
    maps: tuple[Map, ...]
    nbar: float


@torch.compiler.disable
def pair_blocks(x: Tensor, blocks: list[Block], options: BlockOptions, nodes: EventNodes, pairs: PairIndex) -> Tensor:
    """Return the pair feature after all blocks (P, S), not differentiable.

    x (P, C), float32 or float64, or bfloat16 with everything else in float32: see `pair_message`, `equivariant_nodes`
    and `pair_mix`, which compute a block.
    """
    columns = [list(column) for column in zip(*(block[:-1] for block in blocks), strict=True)]
    diagonal_biases = [block.diagonal_bias for block in blocks if block.diagonal_bias is not None]
    where = (nodes.weights, nodes.multiplicity, nodes.node_ptr, pairs.upper_ptr, flat(options.maps))
    slopes = (options.message_slope, options.mix_slope)
    return torch.ops.puffin.pair_blocks(x, *columns, diagonal_biases, *where, *slopes, options.nbar)


def _oracle(
    x,
    message_weights,
    message_biases,
    scales,
    shifts,
    coefficients,
    alphas,
    biases,
    diagonal_biases,
    weights,
    multiplicity,
    node_ptr,
    upper_ptr,
    maps,
    message_slope,
    mix_slope,
    nbar,
):
    message, map_nodes, mix = (library.oracle_of(name) for name in ("pair_message", "equivariant_nodes", "pair_mix"))
    num_nodes = int(node_ptr[-1])
    of_layers = zip(scales, shifts, coefficients, alphas, biases, strict=True)
    of_messages = zip(message_weights, message_biases, strict=True)
    for k, (message_parameters, layer) in enumerate(zip(of_messages, of_layers, strict=True)):
        values, _, _, *sums = message(x, *message_parameters, message_slope, weights, node_ptr, upper_ptr, num_nodes)
        diagonal_bias = diagonal_biases[k] if diagonal_biases else None
        shared = (diagonal_bias, weights, multiplicity, node_ptr, maps, True, nbar)
        (u, v, *w), even, odd, _ = map_nodes(sums, *layer, *shared)
        x = mix(values, even, odd, u, v, w[0] if w else None, node_ptr, upper_ptr, mix_slope)
    return x


def _fake(x, message_weights, message_biases, scales, shifts, coefficients, *_):
    return x.new_empty(x.shape[0], coefficients[-1].shape[2])


library.define(FORWARD, _oracle, _fake, cpu_only=True)
