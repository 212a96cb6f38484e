"""Weighted means over the events of a minibatch."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from puffin.data.packing import JetBatch
from puffin.tasks.classification import JetClassification
from puffin.tasks.regression import MomentumRegression
from puffin.tasks.weighting import combined, normalised, weighted_mean

SIZES = [1e-44, 1e-35, 1e-10, 1.0, 1e35]


@pytest.mark.parametrize("size", SIZES)
def test_size_of_weights_does_not_matter(size):
    """The mean and its gradient depend on ratios of weights only, and the sum of the weights is the true one.

    Breaks if a sum of small weights is limited from below, or if products underflow."""
    values = torch.rand(64, requires_grad=True)
    ratios = torch.randint(0, 3, (64,)).float()
    weights = ratios * size
    mean, total = weighted_mean(values, combined(weights))
    (gradient,) = torch.autograd.grad(mean, values)
    exact = ratios if size > 1e-40 else weights / weights.max()
    torch.testing.assert_close(mean, (values * exact).sum() / exact.sum())
    torch.testing.assert_close(gradient, exact / exact.sum())
    assert total == pytest.approx(float(weights.double().sum()), rel=1e-6)


def test_product_of_small_weights():
    """Weights of events and of classes may both be tiny; their product would be 0 in single precision."""
    values, weights = torch.tensor([1.0, 3.0]), torch.tensor([1e-30, 1e-30])
    mean, total = weighted_mean(values, combined(weights, torch.tensor([1e-30, 3e-30])))
    assert float(mean) == pytest.approx(2.5) and total == pytest.approx(4e-60)


def test_usual_weights_change_no_bit():
    """Runs of earlier versions continue bitwise."""
    values, weights, classes = torch.rand(501), torch.rand(501) * 3, torch.rand(501)
    mean, total = weighted_mean(values, combined(weights, classes))
    product = weights * classes
    assert float(mean) == float((values * product).sum() / product.sum()) and total == float(product.sum())


def test_no_weight():
    """A minibatch without weight, or without events, has the loss 0 and changes nothing."""
    for number in (3, 0):
        values = torch.rand(number, requires_grad=True)
        mean, total = weighted_mean(values, combined(torch.zeros(number)))
        mean.backward()
        assert mean.item() == total == 0 and not values.grad.any()
    assert weighted_mean(torch.tensor([1.0, 2.0]), combined(None, None)) == (1.5, 2)
    assert normalised(torch.zeros(2))[1] == 0


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weights_are_read_before_the_forward_pass(kind, monkeypatch):
    """Breaks if a step reads its weights after the network was queued: the GPU would have to finish it first."""
    order = []

    class Model(torch.nn.Module):
        config = SimpleNamespace(num_classes=2, num_targets=1)

        def forward(self, batch):
            order.append("network")
            momenta = batch.fourmomenta[:, None] * torch.ones((), requires_grad=True)
            return momenta[:, 0, :2] if kind == "classification" else SimpleNamespace(fourmomenta=momenta)

    module = importlib.import_module(f"puffin.tasks.{kind}")
    monkeypatch.setattr(module, "combined", lambda *factors: order.append("weights") or combined(*factors))
    target = torch.tensor([0, 1]) if kind == "classification" else torch.rand(2, 1, 4)
    batch = JetBatch(
        torch.rand(2, 4), torch.tensor([1, 1]), target, index=torch.arange(2), weights=torch.tensor([1.0, 3])
    )
    task = (
        JetClassification(Model(), torch.tensor([1.0, 2]))
        if kind == "classification"
        else MomentumRegression(Model(), {"E": 1.0})
    )
    assert task.step(batch).weight == (7.0 if kind == "classification" else 4.0)
    assert order == ["weights", "network"]
