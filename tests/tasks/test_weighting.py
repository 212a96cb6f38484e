"""Weighted means over the events of a minibatch."""

import pytest
import torch

from puffin.tasks.weighting import normalised, weighted_mean

SIZES = [1e-44, 1e-35, 1e-10, 1.0, 1e35]


@pytest.mark.parametrize("size", SIZES)
def test_size_of_weights_does_not_matter(size):
    """The mean and its gradient depend on ratios of weights only, and the sum of the weights is the true one.

    Breaks if a sum of small weights is limited from below, or if products underflow."""
    values = torch.rand(64, requires_grad=True)
    ratios = torch.randint(0, 3, (64,)).float()
    weights = ratios * size
    mean, total = weighted_mean(values, weights)
    (gradient,) = torch.autograd.grad(mean, values)
    exact = ratios if size > 1e-40 else weights / weights.max()
    torch.testing.assert_close(mean, (values * exact).sum() / exact.sum())
    torch.testing.assert_close(gradient, exact / exact.sum())
    assert total == pytest.approx(float(weights.double().sum()), rel=1e-6)


def test_product_of_small_weights():
    """Weights of events and of classes may both be tiny; their product would be 0 in single precision."""
    values, weights = torch.tensor([1.0, 3.0]), torch.tensor([1e-30, 1e-30])
    mean, total = weighted_mean(values, weights, torch.tensor([1e-30, 3e-30]))
    assert float(mean) == pytest.approx(2.5) and total == pytest.approx(4e-60)


def test_usual_weights_change_no_bit():
    """Runs of earlier versions continue bitwise."""
    values, weights, classes = torch.rand(501), torch.rand(501) * 3, torch.rand(501)
    mean, total = weighted_mean(values, weights, classes)
    product = weights * classes
    assert float(mean) == float((values * product).sum() / product.sum()) and total == float(product.sum())


def test_no_weight():
    """A minibatch without weight, or without events, has the loss 0 and changes nothing."""
    for number in (3, 0):
        values = torch.rand(number, requires_grad=True)
        mean, total = weighted_mean(values, torch.zeros(number))
        mean.backward()
        assert mean.item() == total == 0 and not values.grad.any()
    assert weighted_mean(torch.tensor([1.0, 2.0]), None, None) == (1.5, 2)
    assert normalised(torch.zeros(2))[1] == 0
