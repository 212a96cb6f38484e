"""Hand-made observables as inputs of a classifier."""

import pytest
import torch

from puffin.data.packing import JetBatch
from puffin.layers.observable_inputs import ObservableHead, QuantileScale
from puffin.layers.symmetries import toy_momenta
from puffin.models.pelican import PelicanClassifier
from puffin.settings.pelican import PelicanConfig


def test_positions_among_quantiles():
    """By hand: an even column, and one in which most numbers are equal. Breaks if equal quantiles give NaN, or numbers
    outside of all quantiles are extrapolated."""
    scale = QuantileScale(2, 4)
    assert not scale.is_fitted
    scale.fit_(torch.tensor([[0.0, 5], [1, 5], [2, 5], [3, 5], [4, 9]]))
    assert scale.is_fitted
    found = scale(torch.tensor([[-1.0, 4], [0.5, 5], [3, 7], [8, 10]]))
    assert found.tolist() == [[0, 0], [0.5, 3], [3, 3.5], [4, 4]]


def test_unit_and_shape_of_an_observable_do_not_matter():
    """Breaks if the scale is not that of the ranks: any growing function of an observable gives the same position."""
    x, scales = torch.randn(401, 3).double(), (QuantileScale(3, 4).double(), QuantileScale(3, 4).double())
    scales[0].fit_(x)
    scales[1].fit_(x.exp())
    knots = scales[0].knots.t()
    torch.testing.assert_close(scales[0](knots), scales[1](knots.exp()))
    assert scales[0](knots)[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_new_observables_change_nothing_but_are_learned():
    """Breaks if the last layer does not start at zero, or if gradients do not reach the other layers after a step."""
    head = ObservableHead(5, 3, 2)
    x, features, labels = torch.randn(40, 5), torch.randn(40, 3), torch.randint(2, (40,))
    head.scale.fit_(x)
    assert not head(x, features).any()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(x, features), labels).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters() if p.requires_grad)


def test_noise_in_training_only():
    """Breaks if the observables get no noise in training, or any in an evaluation."""
    head = ObservableHead(5, 3, 2)
    head.dropout.p = 0.0
    torch.nn.init.normal_(head.out.weight)
    x, features = torch.randn(40, 5), torch.randn(40, 3)
    head.scale.fit_(x)
    assert not torch.equal(head(x, features), head(x, features))
    head.eval()
    assert torch.equal(head(x, features), head(x, features))


def test_fewer_jets_get_more_noise():
    """Breaks if the noise does not fall with the number of jets, or if new jets move quantiles that are known."""
    head, x = ObservableHead(2, 3, 2), torch.randn(16000, 2)
    found = []
    for number in (16000, 4000, 100):
        head.fit_(x[:number])
        found.append(head.noise)
    assert found == [0.5, 1, 2]
    expected = QuantileScale(2, head.scale.intervals)
    expected.fit_(x)
    assert torch.equal(head.scale.knots, expected.knots)


def test_a_classifier_with_observables():
    """Breaks if observables of one jet reach another one, are ignored, or may be missing."""
    model = PelicanClassifier(PelicanConfig(num_observables=4)).double().eval()
    model.observables.scale.fit_(torch.randn(30, 4))
    for weight in model.observables.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    momenta, lengths = toy_momenta(3, torch.Generator().manual_seed(0))
    jets = JetBatch(momenta, lengths, observables=torch.randn(3, 4).double())
    scores = model(jets)
    alone = torch.cat([model(jets.part(k, k + 1)) for k in range(3)])
    torch.testing.assert_close(alone, scores)
    jets.observables[1] += 1
    changed = (model(jets) - scores).abs().amax(1)
    assert changed[1] > 1e-3 and changed[0] == changed[2] == 0
    with pytest.raises(ValueError, match="takes 4 of each jet, got none"):
        model(JetBatch(momenta, lengths))
