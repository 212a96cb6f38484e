"""The mini-PointNet against its definition on padded tables."""

import math

import pytest
import torch

from puffin.layers.pointnet import MiniPointNet

SIZE = 6
COUNTS = torch.tensor([3, 1, 6, 5])


def literal(net: MiniPointNet, groups, counts):
    """One group at a time, padding rows built, both halves of the second layer concatenated; eval mode."""

    def normed(norm, x, valid):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return torch.where(valid[:, None], (x - norm.running_mean) * scale, 0) + norm.bias

    out = []
    for group in groups.split(counts.tolist()):
        rows = SIZE if net.padding_row else len(group)
        table = torch.cat([group, group[:1].expand(rows - len(group), -1)])
        valid = torch.arange(rows) < len(group)
        x = net.stage(normed(net.first_norm, net.first(table), valid).relu())
        if net.order is not None:
            angle = torch.arange(rows)[:, None] * torch.exp(-math.log(1e4) / 127 * torch.arange(128.0))
            x = x + net.order.linear(torch.cat([angle.sin(), angle.cos()], 1).to(x)).relu()
        x = torch.cat([x.amax(0, keepdim=True).expand(rows, -1), x], 1)
        out.append(net.out(normed(net.second_norm, net.second(x), valid).relu()).amax(0))
    return torch.stack(out)


def make(**options) -> tuple[MiniPointNet, torch.Tensor]:
    net = MiniPointNet(4, 10, SIZE, **options).double()
    for norm in (net.first_norm, net.second_norm):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            torch.nn.init.normal_(tensor)
    return net, torch.randn(int(COUNTS.sum()), 4, dtype=torch.float64)


@pytest.mark.parametrize("padding_row", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_definition(ordered, padding_row):
    """The split second layer, the maxima, order codes and padding rows."""
    net, groups = make(ordered=ordered, padding_row=padding_row)
    net.eval()
    torch.testing.assert_close(net(groups, COUNTS), literal(net, groups, COUNTS), atol=1e-6, rtol=0)


def test_order_within_a_group():
    """Without order codes the order of a group's points means nothing; with them it does."""
    for ordered in (False, True):
        net, groups = make(ordered=ordered)
        net.eval()
        turned = torch.cat([g.flip(0) for g in groups.split(COUNTS.tolist())])
        difference = float((net(turned, COUNTS) - net(groups, COUNTS)).detach().abs().max())
        assert (difference > 1e-3) == ordered


def test_statistics_are_over_points():
    """In training, batch norm counts every valid point once: large groups weigh more."""
    net, groups = make()
    before = net.first_norm.running_mean.clone()
    net.train()(groups, COUNTS)
    expected = 0.9 * before + 0.1 * net.first(groups).mean(0)
    torch.testing.assert_close(net.first_norm.running_mean, expected.detach())


def test_gradients():
    net, groups = make(ordered=True, padding_row=True)
    net.train()
    torch.autograd.gradcheck(lambda x: net(x, COUNTS)[:, :2], groups.requires_grad_(), atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_no_groups(training):
    net, _ = make()
    out = net.train(training)(torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))
    assert out.shape == (0, 10)
    out.sum().backward()
