"""Interpolation from tokens to points against brute force."""

import pytest
import torch

from puffin.layers.upsample import Neighbours, Upsampler, global_features, interpolate, nearest_tokens

LENGTHS, TOKENS = torch.tensor([30, 0, 7, 4]), torch.tensor([9, 0, 2, 1])


def cloud(dtype=torch.float64):
    return torch.randn(41, 4, dtype=dtype), torch.randn(12, 3, dtype=dtype), torch.randn(12, 6, dtype=dtype)


def test_brute_force():
    """1 / (d^2 + eps) over the five nearest tokens of the same event, or over all of them if there are fewer."""
    points, centres, features = cloud()
    found = interpolate(features, nearest_tokens(points, LENGTHS, centres, TOKENS, eps=0.1))
    expected = []
    for p, c, f in zip(
        *(x.split(n.tolist()) for x, n in ((points, LENGTHS), (centres, TOKENS), (features, TOKENS))), strict=False
    ):
        for point in p:
            squared = (c - point[:3]).square().sum(1)
            near = squared.argsort()[:5]
            weight = 1 / (squared[near] + 0.1)
            expected.append((weight[:, None] * f[near]).sum(0) / weight.sum())
    torch.testing.assert_close(found, torch.stack(expected))


def test_point_on_a_centre():
    points, centres, features = cloud()
    points[3, :3] = centres[4]
    near = nearest_tokens(points, LENGTHS, centres, TOKENS)
    torch.testing.assert_close(interpolate(features, near)[3], features[4], atol=1e-5, rtol=0)


def test_split_product_is_the_concatenation():
    """The upsampler's first layer acts on [x, y, z, interpolated]."""
    net = Upsampler(6).double().eval()
    points, centres, features = cloud()
    near = nearest_tokens(points, LENGTHS, centres, TOKENS)
    x = net.linear1(torch.cat([points[:, :3], interpolate(features, near)], 1))
    expected = net.norm2(net.linear2(net.norm1(x).relu())).relu()
    torch.testing.assert_close(net(points, features, near), expected)


def test_global_features():
    features = cloud()[2]
    found = global_features(features, TOKENS)
    for event, rows in enumerate(features.split(TOKENS.tolist())):
        expected = torch.cat([rows.amax(0), rows.mean(0)]) if len(rows) else torch.zeros(12, dtype=torch.float64)
        torch.testing.assert_close(found[event], expected)


@pytest.mark.parametrize("points, tokens", [([0], [0]), ([0, 0], [0, 0]), ([], []), ([3], [0])])
def test_nothing_to_interpolate(points, tokens):
    """No points, or no tokens (then zeros)."""
    lengths, token_lengths = (torch.tensor(n, dtype=torch.int64) for n in (points, tokens))
    p = torch.randn(sum(points), 4)
    near = nearest_tokens(p, lengths, torch.zeros(0, 3), token_lengths)
    assert torch.equal(interpolate(torch.zeros(0, 6), near), torch.zeros(len(p), 6))


def test_gradients():
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    near = Neighbours(torch.randint(4, (7, 2)), torch.rand(7, 2, dtype=torch.float64))
    torch.autograd.gradcheck(lambda f: interpolate(f, near), features)
