"""Attention on packed tokens against softmax written out."""

import pytest
import torch

from puffin.layers.attention import Attention
from puffin.layers.packed import offsets
from puffin.ops.attention import segment_attention
from tests.conftest import DEVICES

LENGTHS = torch.tensor([4, 0, 1, 7])


def literal(layer: Attention, x, lengths):
    """softmax(q k / sqrt(d)) v for every event and head."""
    out = []
    for event in x.split(lengths.tolist()):
        q, k, v = layer.qkv(event).view(len(event), 3, layer.heads, event.shape[1] // layer.heads).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        out.append((weights @ v).transpose(0, 1).flatten(1))
    return layer.proj(torch.cat(out))


@pytest.mark.parametrize("device", DEVICES)
def test_definition(device):
    """Wrong heads, scale, or a token that sees another event break it."""
    layer = Attention(12, 3).double().to(device)
    x = torch.randn(12, 12, dtype=torch.float64, device=device)
    torch.testing.assert_close(layer(x, LENGTHS), literal(layer, x, LENGTHS))


def test_weights():
    """The weights of an event, applied to its values, give the output of the layer."""
    layer = Attention(12, 3).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    weights, values = layer.weights(x), layer.qkv(x)[:, 24:].view(5, 3, 4).transpose(0, 1)
    assert weights.shape == (3, 5, 5)
    torch.testing.assert_close(layer.proj((weights @ values).transpose(0, 1).flatten(1)), layer(x, torch.tensor([5])))


def test_padded_equals_packed():
    """The way of other devices, run on the CPU: the same numbers and gradients."""
    layer = Attention(12, 3).double()
    x = torch.randn(12, 36, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, 12, dtype=torch.float64)
    found = [segment_attention(x, offsets(LENGTHS), 3), layer._padded(x, LENGTHS, 0.0)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad((out * weight).sum(), x)[0] for out in found))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu():
    layer = Attention(64, 2).to("cuda", torch.bfloat16).eval()
    x = torch.randn(12, 64, device="cuda", dtype=torch.bfloat16)
    torch.testing.assert_close(layer(x, LENGTHS).float(), literal(layer, x, LENGTHS).float(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("lengths", [[], [0, 0], [1]])
def test_hardly_any_tokens(lengths):
    layer, sizes = Attention(12, 3), torch.tensor(lengths, dtype=torch.int64)
    assert layer(torch.randn(sum(lengths), 12), sizes).shape == (sum(lengths), 12)
    assert layer._padded(torch.randn(sum(lengths), 36), sizes, 0.0).shape == (sum(lengths), 12)


def test_autocast_stays_in_half_precision():
    """Breaks if attention casts its table: the linear layers before and after it are bfloat16."""
    layer, x = Attention(64, 2), torch.randn(12, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, LENGTHS)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), literal(layer, x, LENGTHS), atol=2e-2, rtol=2e-2)


def test_dropout_only_in_training():
    layer = Attention(12, 3, dropout=0.5)
    x = torch.randn(12, 12)
    assert not torch.equal(layer(x, LENGTHS), layer(x, LENGTHS))
    layer.eval()
    assert torch.equal(layer(x, LENGTHS), layer(x, LENGTHS))


def test_gradients():
    layer = Attention(6, 2).double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: layer(x, torch.tensor([3, 2])), x)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="divisor of the width 10"):
        Attention(10, 3)
