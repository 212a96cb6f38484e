"""A message on pairs in one pass: linear layer, leaky ReLU, statistics for batch normalisation, and sums for the nodes.

It is `message` (messages.py) followed by `pair_sums` (pairs.py).  On a CPU the kernel adds up rows and columns while a
tile of the values is in the cache, and its backward pass adds the gradients of these sums where it reads that of the
values: two passes over a table of pairs less in each direction.
Source: arXiv 2307.16506, sec. 3 (messages); batch normalisation: arXiv 1502.03167.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.messages import message, wide_parameters
from puffin.ops.pair_index import PairIndex
from puffin.ops.pair_operators import dtype_of_sums
from puffin.ops.pairs import Reduced, check_rows, pair_sums

FORWARD = (
    "pair_message(Tensor x, Tensor weight, Tensor bias, float slope, Tensor? weights, Tensor node_ptr,"
    " Tensor upper_ptr, int num_nodes) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
BACKWARD = (
    "pair_message_backward(Tensor? grad, Tensor y, Tensor x, Tensor weight, Tensor mean, Tensor offset, Tensor factor,"
    " Tensor diagonal, Tensor rows, Tensor columns, Tensor? weights, Tensor node_ptr, Tensor upper_ptr, float slope)"
    " -> (Tensor, Tensor, Tensor)"
)


class PairMessage(NamedTuple):
    """values (P, S), their mean and biased variance (S,) over the pairs (both 0 without pairs), and their sums."""

    values: Tensor
    mean: Tensor
    variance: Tensor
    sums: Reduced


@torch.compiler.disable
def pair_message(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float, pairs: PairIndex, weights: Tensor | None = None
) -> PairMessage:
    """Return leaky(x W^T + b), its statistics and its sums for the nodes; all are differentiable once.

    x (P, C); weight (S, C), bias (S,); slope 0..1 of the leaky ReLU; weights (N,) of the sums, or None for 1: see
    `pair_reduce`.  Autocast is ignored.  If x is bfloat16, so are the values and the gradient of x; everything else is
    float32, computed from the rounded values.

    >>> pairs = PairIndex(torch.tensor([2]), torch.device("cpu"))
    >>> x, one = torch.tensor([[1.0], [4.0], [-2.0], [3.0]]), torch.ones(1)  # pairs (0, 0), (1, 1), (0, 1), (1, 0)
    >>> message = pair_message(x, one[None], 0 * one, 0.5, pairs)
    >>> message.values.flatten(), message.mean, message.sums.rows.flatten()
    (tensor([ 1.,  4., -1.,  3.]), tensor([1.7500]), tensor([0., 7.]))
    """
    check_rows("x", x, pairs, pairs.num_pairs, "pairs")
    if not (library.has_kernel(x) and library.has_cpu_kernel(x)):
        values, mean, variance = message(x, weight, bias, slope)
        values, sums = pair_sums(values, pairs, weights)
        return PairMessage(values, mean, variance, sums)
    weights = None if weights is None else weights.to(dtype_of_sums(x))
    values, mean, variance, *sums = _PairMessage.apply(x, *wide_parameters(x, weight, bias), slope, pairs, weights)
    return PairMessage(values, mean, variance, Reduced(*sums))


class _PairMessage(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, slope, pairs, weights):
        where = (pairs.node_ptr, pairs.upper_ptr, pairs.num_nodes)
        out = torch.ops.puffin.pair_message(x, weight, bias, slope, weights, *where)
        ctx.slope, ctx.pairs, ctx.weights = slope, pairs, weights
        ctx.save_for_backward(out[0], x, weight, out[1])
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_mean, grad_variance, *grads_of_sums):
        y, x, weight, mean = ctx.saved_tensors
        rows = max(len(x), 1)
        offset = torch.zeros_like(mean) if grad_mean is None else grad_mean / rows
        factor = torch.zeros_like(mean) if grad_variance is None else grad_variance * (2 / rows)
        sums = (mean.new_zeros(ctx.pairs.num_nodes, len(mean)) if g is None else g for g in grads_of_sums)
        where = (ctx.weights, ctx.pairs.node_ptr, ctx.pairs.upper_ptr, ctx.slope)
        gradients = torch.ops.puffin.pair_message_backward(grad, y, x, weight, mean, offset, factor, *sums, *where)
        return *gradients, None, None, None


# -- oracles and shapes of the results --------------------------------------------------------------------------------


def _oracle(x, weight, bias, slope, weights, *where):
    values, mean, variance = library.oracle_of("message")(x, weight, bias, slope)
    return values, mean, variance, *library.oracle_of("pair_reduce")(values, weights, *where)


def _backward_oracle(
    grad, y, x, weight, mean, offset, factor, diagonal, rows, columns, weights, node_ptr, upper_ptr, slope
):
    num_upper = (len(x) - len(rows)) // 2
    of_sums = library.oracle_of("pair_expand")(rows, columns, diagonal, weights, None, node_ptr, upper_ptr, num_upper)
    grad = of_sums if grad is None else grad + of_sums
    return library.oracle_of("message_backward")(grad, y, x, weight, mean, offset, factor, slope)


def _fake(x, weight, bias, slope, weights, node_ptr, upper_ptr, num_nodes):
    sums = (bias.new_empty(num_nodes, weight.shape[0]) for _ in range(3))
    return x.new_empty(x.shape[0], weight.shape[0]), *(bias.new_empty(bias.shape) for _ in range(2)), *sums


def _backward_fake(grad, y, x, weight, mean, *_):
    return tuple(t.new_empty(t.shape) for t in (x, weight, mean))


library.define(FORWARD, _oracle, _fake, cpu_only=True)
library.define(BACKWARD, _backward_oracle, _backward_fake, cpu_only=True)
