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


def test_a_number_fills_the_intervals_below_it():
    """Breaks if an interval is skipped, or if encoded numbers leave 0 to 1."""
    model = GeometryInputs()
    encoded = model.encode(torch.tensor([[-9.0], [0.0], [9.0]]).expand(3, len(NAMES))).view(3, len(NAMES), -1)
    edges = model.edges
    assert (encoded[0] == 0).all() and (encoded[2] == 1).all()
    assert torch.allclose(edges[0] + (encoded[1] * edges.diff()).sum(1), torch.zeros(len(NAMES)), atol=1e-6)


@torch.no_grad()
def test_symmetries_of_the_lattice_change_nothing():
    """Breaks if a feature depends on the orientation of the event."""
    torch.manual_seed(1)
    model = GeometryInputs().double().eval()
    points, lengths = walks([300, 50])
    moved = lattice_symmetry(CloudBatch(points, lengths)).points
    assert torch.allclose(model(moved, lengths), model(points, lengths), atol=1e-6)
