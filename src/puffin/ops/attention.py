"""Self-attention within each event, on packed tokens: softmax(q k / sqrt(size)) v for every event and head.

The kernel computes the scores tile by tile, forward and backward, and stores none of them.  Sources: arXiv 1706.03762,
sec. 3.2; tiles with an online softmax: arXiv 2307.08691, algorithms 1 and 2.
"""

import math

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.segments import check_ptr

FORWARD = "segment_attention(Tensor qkv, Tensor ptr, Tensor? seed, int heads, float dropout) -> (Tensor, Tensor)"
BACKWARD = (
    "segment_attention_backward(Tensor grad, Tensor qkv, Tensor out, Tensor lse, Tensor ptr, Tensor? seed, int heads, "
    "float dropout) -> Tensor"
)
_STEPS = 2**32


def segment_attention(qkv: Tensor, ptr: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """Attend within each event: qkv (T, 3 dim) floating point -> (T, dim).

    The columns of qkv are queries, keys and values, each (heads, size) with size = dim / heads; sums are float32 for
    half precision.  ptr (B + 1,) int64 on the device of qkv: the first token of each event, from 0 to T; an event may
    be empty.  Differentiable once.

    dropout 0..1 (not included): fraction of the attention weights to drop, rounded to a multiple of 2^-32.  A hash of
    seed, token, head and key decides which; the seed comes from PyTorch's CPU generator.  So other weights are dropped
    than by `scaled_dot_product_attention` after the same `torch.manual_seed`.

    >>> qkv = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.0, 7.0]])  # two events, one head, equal scores
    >>> segment_attention(qkv, torch.tensor([0, 2, 3]), heads=1).flatten()
    tensor([2., 2., 7.])
    """
    if qkv.dim() != 2 or heads < 1 or qkv.shape[1] == 0 or qkv.shape[1] % (3 * heads) or not qkv.is_floating_point():
        raise ValueError(f"qkv: expected (T, 3 x {heads} heads x size), got {tuple(qkv.shape)} {qkv.dtype}")
    check_ptr(qkv, ptr)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected 0 or more and below 1, got {dropout}")
    seed = torch.empty((), dtype=torch.int64).random_(-(2**63), None) if dropout else None
    supported = qkv.float() if qkv.dtype == torch.float16 else qkv
    return torch.ops.puffin.segment_attention(supported, ptr, seed, heads, dropout)[0].to(qkv.dtype)


# -- operators: oracles, shapes, derivatives -------------------------------------------------------------------------


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _hashed(x: Tensor, word: Tensor | int = 0) -> Tensor:
    """Mix 32-bit numbers, which int64 tensors hold, and a random word."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B & 0xFFFFFFFF) ^ word
    return (x ^ (x >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF


def _random_bits(x: Tensor) -> Tensor:
    x = _hashed(x)
    return x ^ (x >> 16)


def dropout_factors(ptr: Tensor, event: int, seed: Tensor | None, heads: int, dropout: float) -> Tensor:
    """Return what multiplies the attention weights of an event, (heads, n, n): 0 or 1 / (1 - dropout)."""
    threshold = min(round(dropout * _STEPS), _STEPS - 1)
    if threshold == 0 or seed is None:
        return torch.ones(())
    low, high = int(seed) & 0xFFFFFFFF, int(seed) >> 32 & 0xFFFFFFFF
    query, head = torch.arange(int(ptr[event]), int(ptr[event + 1])), torch.arange(heads)
    first = _random_bits(low ^ _random_bits(query * heads + head[:, None] & 0xFFFFFFFF))[..., None]
    second = _random_bits(high ^ first)
    key = torch.arange(len(query)) * 0x9E3779B9 & 0xFFFFFFFF
    return (_hashed(key ^ first, second) >= threshold).double() / (1 - threshold / _STEPS)


def _split(x: Tensor, parts: int, heads: int) -> Tensor:
    """Split (n, parts heads size) into (parts, heads, n, size)."""
    return _wide(x).unflatten(1, (parts, heads, -1)).permute(1, 2, 0, 3)


def _join(x: Tensor) -> Tensor:
    """Undo `_split`."""
    return x.permute(2, 0, 1, 3).flatten(1)


def _oracle(qkv, ptr, seed, heads, dropout):
    out, lse = [], []
    for event, tokens in enumerate(qkv.split(ptr.diff().tolist())):
        q, k, v = _split(tokens, 3, heads)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
        factors = dropout_factors(ptr, event, seed, heads, dropout).to(scores)
        out.append(_join((scores.softmax(2) * factors @ v)[None]).to(qkv.dtype))
        lse.append(scores.logsumexp(2).t())
    if not out:
        return qkv.new_empty(0, qkv.shape[1] // 3), _wide(qkv.new_empty(0, heads))
    return torch.cat(out), torch.cat(lse)


def _backward_oracle(grad, qkv, out, lse, ptr, seed, heads, dropout):
    grads = []
    sizes = ptr.diff().tolist()
    for event, (g, tokens, o, log) in enumerate(zip(*(t.split(sizes) for t in (grad, qkv, out, lse)), strict=True)):
        q, k, v = _split(tokens, 3, heads)
        g, o = (_split(t, 1, heads)[0] for t in (g, o))
        scale = 1 / math.sqrt(q.shape[2])
        weights = (q @ k.transpose(1, 2) * scale - log.t()[..., None]).exp()
        factors = dropout_factors(ptr, event, seed, heads, dropout).to(weights)
        of_scores = weights * (g @ v.transpose(1, 2) * factors - (g * o).sum(2, keepdim=True)) * scale
        of_values = (weights * factors).transpose(1, 2) @ g
        grads.append(_join(torch.stack([of_scores @ k, of_scores.transpose(1, 2) @ q, of_values])).to(qkv.dtype))
    return torch.cat(grads) if grads else qkv.new_empty(qkv.shape)


def _setup(ctx, inputs, output):
    qkv, ptr, seed, ctx.heads, ctx.dropout = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(qkv, *output, ptr, seed)


def _derivative(ctx, grad, _):
    if grad is None:
        return None, None, None, None, None
    qkv, out, lse, ptr, seed = ctx.saved_tensors
    backward = torch.ops.puffin.segment_attention_backward
    return backward(grad, qkv, out, lse, ptr, seed, ctx.heads, ctx.dropout), None, None, None, None


def _fake(qkv, ptr, seed, heads, dropout):
    rows, columns = qkv.shape
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    return qkv.new_empty(rows, columns // 3), qkv.new_empty(rows, heads, dtype=dtype)


def _backward_fake(grad, qkv, *_):
    return qkv.new_empty(qkv.shape)


library.define(FORWARD, _oracle, _fake, cpu_only=True)
library.define(BACKWARD, _backward_oracle, _backward_fake, cpu_only=True)
torch.library.register_autograd("puffin::segment_attention", _derivative, setup_context=_setup)
