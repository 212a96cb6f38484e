"""The transformer's blocks, norms and stochastic depth."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from puffin.layers.transformer import BatchWideNorm, DropPath, Transformer
from puffin.settings.encoder import TransformerConfig

SMALL = TransformerConfig("vit_tiny", depth=3, attention_dropout=0.0, drop_path=0.0, final_norm=True)
LENGTHS = torch.tensor([5, 1, 0, 6])


def inputs(dtype=torch.float64):
    return torch.randn(12, 192, dtype=dtype), torch.randn(12, 192, dtype=dtype)


def test_definition():
    """Pre-norm; the position goes into every block; GELU; a norm at the end only where asked for."""
    net = Transformer(SMALL).double()
    x, position = inputs()
    expected = x
    for block in net.blocks:
        expected = expected + position
        expected = expected + block.attention(block.norm1(expected), LENGTHS)
        hidden = F.gelu(block.mlp[0](block.norm2(expected)))
        expected = expected + block.mlp[2](hidden)
    torch.testing.assert_close(net(x, position, LENGTHS), net.norm(expected))
    *_, last = net.outputs(x, position, LENGTHS)
    torch.testing.assert_close(last, expected)


@pytest.mark.parametrize("batch_wide", [False, True])
def test_batch_mates(batch_wide):
    """An event's output is its own, unless the norm of published networks is chosen: the control that must differ."""
    net = Transformer(TransformerConfig("vit_tiny", 2, 0.0, 0.0, batch_wide_norm=batch_wide)).double().eval()
    x, position = inputs()
    together = net(x, position, LENGTHS)[6:]
    alone = net(x[6:], position[6:], LENGTHS[3:])
    assert (float((together - alone).detach().abs().max()) > 1e-6) == batch_wide


def test_order_of_tokens():
    """Permuting an event's tokens permutes its outputs."""
    net = Transformer(SMALL).double().eval()
    x, position = inputs()
    order = torch.cat([torch.randperm(5), torch.tensor([5]), 6 + torch.randperm(6)])
    torch.testing.assert_close(net(x[order], position[order], LENGTHS), net(x, position, LENGTHS)[order])


def test_batch_wide_norm():
    """Mean 0 and variance 1 over all entries together, not for each token."""
    x = torch.randn(50, 192, dtype=torch.float64) * torch.arange(1, 51)[:, None] + 3
    out = BatchWideNorm(192).double()(x).detach()
    assert abs(float(out.mean())) < 1e-12 and abs(float(out.square().mean()) - 1) < 1e-12
    assert float(out[-1].std()) > 10 * float(out[0].std())


def test_stochastic_depth_is_per_token():
    """A token's branch goes or stays whole; the mean stays; nothing happens in evaluation or at p = 0."""
    drop = DropPath(0.25)
    out = drop(torch.ones(20000, 3))
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert torch.equal(out[:, 0], out[:, 2]) and abs(float(out.mean()) - 1) < 0.02
    x = torch.randn(20000, 3)
    branch = (drop.add(x, nn.Identity(), torch.ones(20000, 3)) - x).round(decimals=4)  # the same, without computing it
    assert set(branch.unique().tolist()) == {0.0, float(torch.tensor(1.3333))}
    assert torch.equal(branch[:, 0], branch[:, 2]) and abs(float(branch.mean()) - 1) < 0.02
    for off in (DropPath(0.0), drop.eval()):
        assert torch.equal(off(x), x) and torch.equal(off.add(x, nn.Identity(), x), 2 * x)
    rates = [block.drop_path.p for block in Transformer(TransformerConfig("vit_tiny", 3, drop_path=0.2)).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_autocast_keeps_sums_wide():
    net = Transformer(SMALL)
    x, position = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, position, LENGTHS)
        *_, last = net.outputs(x.bfloat16(), position.bfloat16(), LENGTHS)
    assert last.dtype == torch.float32
    assert float((out - net(x, position, LENGTHS)).detach().abs().max()) < 0.1


def test_gradients():
    net = Transformer(TransformerConfig("vit_tiny", 1, 0.0, 0.0, batch_wide_norm=True)).double()
    x, position = (t[:3].requires_grad_() for t in inputs())
    torch.autograd.gradcheck(lambda x, p: net(x, p, torch.tensor([2, 1]))[:, :2], (x, position), fast_mode=True)


def test_bad_architecture():
    with pytest.raises(ValueError, match="vit_tiny, vit_small, vit_base"):
        TransformerConfig("vit_huge")


@pytest.mark.parametrize("training", [False, True])
def test_stochastic_depth_under_autocast(training):
    """Half-precision branches add to wide sums; also with no tokens at all."""
    net = Transformer(TransformerConfig("vit_tiny", 2, drop_path=0.5)).train(training)
    x, position = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x, position, LENGTHS).isfinite().all()
        assert net(x[:0], position[:0], torch.tensor([0])).shape == (0, 192)
