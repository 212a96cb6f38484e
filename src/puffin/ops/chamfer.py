"""Chamfer distance between clouds, over all D coordinates.

Source: docs/MATHEMATICS_CLOUDS.md, section 2; Fan et al., CVPR 2017.
"""

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.checks import check_alike, check_points, checked_lengths, chunks, per_event, squared_distances

SCHEMA = "chamfer(Tensor x, Tensor y, Tensor lengths_x, Tensor lengths_y) -> (Tensor, Tensor, Tensor, Tensor)"
BACKWARD_SCHEMA = (
    "chamfer_backward(Tensor grad_x, Tensor grad_y, Tensor x, Tensor y, Tensor index_x, Tensor index_y)"
    " -> (Tensor, Tensor)"
)
REDUCTIONS = ("mean", "none")


def chamfer_distance(
    x: Tensor,
    y: Tensor,
    lengths_x: Tensor | None = None,
    lengths_y: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Average the squared distance of each point to the nearest point of the other cloud, in both directions, added up.

    x (B, N, D >= 3), y (B, M, D); lengths (B,) int64 or None (all points). Returns the mean over the clouds (a scalar),
    or (B,) with reduction="none". Among equally near points the one of lowest index counts, and the gradient flows to
    it alone. A cloud that is empty, or whose partner is, adds 0. Half precision is computed in float32. Differentiable
    once, in x and y.

    >>> x, y = torch.tensor([[[0.0, 0, 0]]]), torch.tensor([[[1.0, 0, 0], [3, 0, 0]]])
    >>> chamfer_distance(x, y)  # 1 + (1 + 9) / 2
    tensor(6.)
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}")
    x, y = (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in (x, y))
    check_points("x", x)
    check_points("y", y)
    check_alike("y", y, "x", x)
    if x.shape[2] != y.shape[2]:
        raise ValueError(f"y: expected {x.shape[2]} coordinates like x, got {y.shape[2]}")
    lengths_x = per_event("lengths_x", lengths_x, x, x.shape[1])
    lengths_y = per_event("lengths_y", lengths_y, y, y.shape[1])
    to_y, _, to_x, _ = torch.ops.puffin.chamfer(x, y, lengths_x, lengths_y)
    each = to_y.sum(1) / lengths_x.clamp(min=1) + to_x.sum(1) / lengths_y.clamp(min=1)
    return each.mean() if reduction == "mean" else each


def oracle(x: Tensor, y: Tensor, lengths_x: Tensor, lengths_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the squared distance to the nearest point of the other cloud, and its index: (B, N) twice, (B, M) twice.

    Padding, and rows whose partner is empty: distance 0, index -1.
    """
    return *_nearest(x, y, lengths_x, lengths_y), *_nearest(y, x, lengths_y, lengths_x)


def _nearest(x: Tensor, y: Tensor, lengths_x: Tensor, lengths_y: Tensor) -> tuple[Tensor, Tensor]:
    distance = x.new_zeros(x.shape[:2])
    index = torch.full(x.shape[:2], -1, device=x.device)
    for event, (n, m) in enumerate(zip(checked_lengths(lengths_x, x), checked_lengths(lengths_y, y), strict=False)):
        for rows in chunks(n, m) if m else []:
            d = squared_distances(x[event, rows], y[event, :m], x.shape[2])
            nearest = d.argmin(1)  # the first of equals
            index[event, rows] = nearest
            distance[event, rows] = d.gather(1, nearest[:, None])[:, 0]
    return distance, index


def backward_oracle(
    grad_x: Tensor, grad_y: Tensor, x: Tensor, y: Tensor, index_x: Tensor, index_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Return d/dx and d/dy of sum(grad_x dist_x) + sum(grad_y dist_y)."""
    of_x, at_nearest_y = _one_direction(grad_x, x, y, index_x)
    of_y, at_nearest_x = _one_direction(grad_y, y, x, index_y)
    return of_x - at_nearest_x, of_y - at_nearest_y


def _one_direction(grad: Tensor, x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return 2 g (x_i - y_j) at every i, and its sum at every nearest point j."""
    if y.shape[1] == 0:
        return torch.zeros_like(x), torch.zeros_like(y)
    at = index.clamp(min=0)[..., None].expand(x.shape)
    gradient = 2 * grad[..., None] * (x - y.gather(1, at))
    gradient = torch.where((index >= 0)[..., None], gradient, 0.0)
    return gradient, torch.zeros_like(y).scatter_add_(1, at, gradient)


def _fake(x, y, lengths_x, lengths_y):
    outputs = []
    for cloud in (x, y):
        shape = cloud.shape[:2]
        outputs += [cloud.new_empty(shape), cloud.new_empty(shape, dtype=torch.int64)]
    return tuple(outputs)


def _backward_fake(grad_x, grad_y, x, y, index_x, index_y):
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _setup_context(ctx, inputs, output):
    x, y, _, _ = inputs
    _, index_x, _, index_y = output
    ctx.mark_non_differentiable(index_x, index_y)
    ctx.save_for_backward(x, y, index_x, index_y)


def _backward(ctx, grad_x, _, grad_y, __):
    x, y, index_x, index_y = ctx.saved_tensors
    grad_x = x.new_zeros(x.shape[:2]) if grad_x is None else grad_x
    grad_y = y.new_zeros(y.shape[:2]) if grad_y is None else grad_y
    return *torch.ops.puffin.chamfer_backward(grad_x, grad_y, x, y, index_x, index_y), None, None


library.define(SCHEMA, oracle, _fake)
library.define(BACKWARD_SCHEMA, backward_oracle, _backward_fake)
torch.library.register_autograd("puffin::chamfer", _backward, setup_context=_setup_context)
