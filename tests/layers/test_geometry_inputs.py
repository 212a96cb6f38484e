"""Hand-made features as inputs of networks: what is measured, how it is encoded, and what they do not depend on."""

import torch

from puffin.data.augment import lattice_symmetry
from puffin.data.packing import CloudBatch
from puffin.layers.geometry_inputs import NAMES, GeometryInputs
from puffin.ops.geometry import geometry_names
from tests.models.test_unet import walks


def test_own_energy_first_and_sums_of_energies_as_logarithms():
    """Breaks if a column moves, or if the sums of energies, which grow with the event, are taken as they are."""
    points, lengths = walks([400])
    measured = GeometryInputs().double().measure(points, lengths)
    assert measured.shape == (400, len(NAMES))
    assert torch.equal(measured[:, 0], points[:, 3])
    column = NAMES.index("r30_energy")
    assert NAMES[1:44] == geometry_names() and measured[:, column].max() < ((points[:, 3] + 1) / 2).sum().log1p() + 1e-6


@torch.no_grad()
def test_a_weight_is_the_rise_over_its_interval():
    """The first weight of a feature counts below -2.5 + 5/12, the last above 2.5 - 5/12. Breaks if intervals are
    exchanged or shifted, which weights of earlier versions would not survive."""
    model, k = GeometryInputs(), NAMES.index("event_points")
    model.layers[0].weight.zero_()[0, 12 * k : 12 * k + 12] = torch.arange(1.0, 13)
    x = torch.zeros(4, len(NAMES))
    x[:, k] = torch.tensor([-9, -2.5 + 5 / 24, 2.5 - 5 / 24, 9])
    assert torch.allclose(model.thresholds(x)[:, 0], torch.tensor([0, 0.5, 72, 78]), atol=1e-4)
    assert not model.thresholds(x)[:, 1:].any()


@torch.no_grad()
def test_symmetries_of_the_lattice_change_nothing():
    """Breaks if a feature depends on the orientation of the event."""
    torch.manual_seed(1)
    model = GeometryInputs().double().eval()
    points, lengths = walks([300, 50])
    moved = lattice_symmetry(CloudBatch(points, lengths)).points
    assert torch.allclose(model(moved, lengths), model(points, lengths), atol=1e-6)
