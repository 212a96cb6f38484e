"""Losses on point clouds against their formulas, one group or point at a time."""

import pytest
import torch
import torch.nn.functional as F

from puffin.losses.clouds import CLASS_LOSSES, LossTerms, chamfer_by_group, energy_by_group, mean_of

COUNTS = torch.tensor([3, 1, 5])


def class_loss(name, logits, target, weight=None):
    """A class loss of points, from its sums over them."""
    return CLASS_LOSSES[name].value(CLASS_LOSSES[name].sums(logits, target, weight), weight)


def groups(dtype=torch.float64):
    return torch.randn(3, 5, 4, dtype=dtype), torch.randn(9, 4, dtype=dtype)


def test_chamfer_of_groups():
    """Only the first counts of the predicted points take part, and all four columns."""
    predicted, true = groups()
    each = []
    for p, t, n in zip(predicted, true.split(COUNTS.tolist()), COUNTS.tolist(), strict=False):
        d = (p[:n, None] - t[None]).square().sum(-1)
        each.append(d.amin(0).mean() + d.amin(1).mean())
    torch.testing.assert_close(chamfer_by_group(predicted, true, COUNTS), torch.stack(each))


def test_energy_error():
    predicted, true = groups()
    pairs = zip(predicted[..., 0], true[:, 3].split(COUNTS.tolist()), strict=False)
    expected = torch.stack([sum((p[i] - t) ** 2 for i, t in enumerate(e)) for p, e in pairs])
    torch.testing.assert_close(energy_by_group(predicted[..., 0], true[:, 3], COUNTS), expected)


def test_no_masked_groups():
    """Zero, with a gradient: a rank of a distributed run may have such a batch."""
    none = torch.zeros(0, dtype=torch.int64)
    predicted = torch.zeros(0, 5, 4, requires_grad=True)
    each = (
        chamfer_by_group(predicted, torch.zeros(0, 4), none),
        energy_by_group(predicted[..., 0], torch.zeros(0), none),
    )
    loss = sum(mean_of(torch.stack([e.sum(), e.new_zeros(())])) for e in each)
    assert float(loss.detach()) == 0
    loss.backward()


def test_half_precision_predictions():
    predicted, true = groups(torch.float32)
    loss = chamfer_by_group(predicted.bfloat16(), true, COUNTS).mean()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, chamfer_by_group(predicted, true, COUNTS).mean(), rtol=0.05, atol=0)


def test_focal():
    logits, target = torch.randn(20, 3, dtype=torch.float64), torch.randint(3, (20,))
    weight = torch.tensor([1.0, 2.0, 30.0])
    p = logits.softmax(1)[torch.arange(20), target]
    expected = (-((1 - p) ** 2) * p.log() * weight[target]).mean()
    torch.testing.assert_close(class_loss("focal", logits, target, weight.double()), expected)
    certain = torch.tensor([[100.0, 0.0]], requires_grad=True)
    class_loss("focal", certain, torch.tensor([0])).backward()
    assert certain.grad.isfinite().all()
    assert float(class_loss("focal", torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))) == 0


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 30.0])])
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_probabilities_as_target(name, weight):
    """Certain probabilities give what classes give, and the sums are linear in them: two halves of a point count one.

    Breaks if the weight of a class is left out of the numerator or the denominator."""
    logits, target = torch.randn(20, 3, dtype=torch.float64), torch.randint(3, (20,))
    sums, certain = CLASS_LOSSES[name].sums, F.one_hot(target, 3).double()
    torch.testing.assert_close(sums(logits, certain, weight), sums(logits, target, weight))
    other = torch.randint(3, (20,))
    half = (certain + F.one_hot(other, 3)) / 2
    expected = (sums(logits, target, weight) + sums(logits, other, weight)) / 2
    torch.testing.assert_close(sums(logits, half, weight), expected)


def test_dice():
    """0 for certain and right, near 1 for certain and wrong, less of the classes that weigh more."""
    target = torch.randint(3, (3000,))
    right = F.one_hot(target, 3) * 100.0
    assert float(class_loss("dice", right, target)) < 1e-6
    assert float(class_loss("dice", right.roll(1, 1), target)) > 0.99
    one_wrong = torch.where(target[:, None] == 2, right.roll(1, 1), right)
    assert (
        class_loss("dice", one_wrong, target, torch.tensor([1.0, 1.0, 9.0]))
        > class_loss("dice", one_wrong, target) + 0.1
    )


def test_nll():
    """PyTorch's weighted cross entropy; 0 of nothing."""
    logits, target, weight = torch.randn(20, 3), torch.randint(3, (20,)), torch.tensor([1.0, 2.0, 30.0])
    torch.testing.assert_close(class_loss("nll", logits, target, weight), F.cross_entropy(logits, target, weight))
    torch.testing.assert_close(class_loss("nll", logits, target), F.cross_entropy(logits, target))
    assert float(class_loss("nll", logits[:0], target[:0], weight)) == 0


def test_terms_of_sums():
    """Sums of two parts give the losses of the whole, each with its factor. Breaks if a loss is averaged over parts."""
    logits, target, weight = (
        torch.randn(20, 3, dtype=torch.float64),
        torch.randint(3, (20,)),
        torch.tensor([1.0, 2.0, 30.0]),
    )
    terms = LossTerms({"dice": 0.5, "nll": 2.0, "focal": 1.0}, weight)
    sums = [a + b for a, b in zip(terms.sums(logits[:7], target[:7]), terms.sums(logits[7:], target[7:]), strict=False)]
    expected = (
        0.5 * class_loss("dice", logits, target, weight)
        + 2 * class_loss("nll", logits, target, weight)
        + class_loss("focal", logits, target, weight)
    )
    torch.testing.assert_close(terms.total(sums), expected)
    torch.testing.assert_close(terms.values(sums)["dice"], class_loss("dice", logits, target, weight))


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_gradients(name):
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: class_loss(name, x, torch.tensor([0, 1, 2, 1, 1, 0]), weight), logits)
