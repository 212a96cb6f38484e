"""Self-attention within each event, on packed tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.packed import offsets, pad, to_device, unpad
from puffin.ops.attention import segment_attention


class Attention(nn.Module):
    """Multi-head self-attention: x (T, dim) -> (T, dim); a token attends to the tokens of its own event.

    On the CPU one kernel takes all events (`segment_attention`); other devices use PyTorch's attention.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: expected a divisor of the width {dim}, got {heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Attend within each event: x (T, dim); lengths (B,) int64 on the CPU, tokens of each event."""
        qkv = self.qkv(x)
        dropout = self.dropout if self.training else 0.0
        if qkv.device.type == "cpu":
            out = segment_attention(qkv, offsets(lengths), self.heads, dropout)
        elif dropout == 0 and qkv.device.type == "cuda" and qkv.dtype in (torch.float16, torch.bfloat16):
            out = self._varlen(qkv, lengths)
        else:
            out = self._padded(qkv, lengths, dropout)
        return self.proj(out)

    def weights(self, x: Tensor) -> Tensor:
        """Compute the weights (heads, n, n) with which each of the n tokens x (n, dim) of one event attends to all.

        Row t belongs to token t, and adds up to 1. Without dropout."""
        q, k, _ = self._split(self.qkv(x))
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)

    def _split(self, qkv: Tensor) -> Tensor:
        """Split (..., n, 3 dim) into q, k, v: (3, ..., heads, n, dim / heads)."""
        return qkv.unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)

    def _padded(self, qkv: Tensor, lengths: Tensor, dropout: float) -> Tensor:
        lengths = lengths[lengths > 0]  # a row without any key has no softmax
        if len(lengths) == 0:
            return qkv[:, : qkv.shape[1] // 3]
        q, k, v = self._split(pad(qkv, lengths))
        valid = to_device(torch.arange(q.shape[-2]) < lengths[:, None], qkv.device)[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=valid, dropout_p=dropout)
        return unpad(out.transpose(1, 2).flatten(2), lengths)

    def _varlen(self, qkv: Tensor, lengths: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = qkv.unflatten(1, (3, self.heads, -1)).unbind(1)
        begin = to_device(offsets(lengths).int(), qkv.device)
        longest = int(lengths.max()) if len(lengths) else 0
        if longest == 0:
            return qkv[:, : qkv.shape[1] // 3]
        return varlen_attn(q, k, v, begin, begin, longest, longest).flatten(1)
