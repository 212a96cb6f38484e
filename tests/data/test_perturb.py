"""Perturbations of jets: what they change, what they conserve, and that they keep jets apart."""

import pytest
import torch

from puffin.data.packing import JetBatch
from puffin.data.perturb import PERTURBATIONS, SOFT_PT, SOFT_RADIUS, hardest
from puffin.layers.packed import event_of_row
from puffin.losses.momenta import delta_r, mass, transverse_momentum

LENGTHS = torch.tensor([30, 0, 1, 400])


def jets():
    """Four jets, one of them empty, whose particles have their jet's number as their feature."""
    p = torch.randn(int(LENGTHS.sum()), 3) * 3 + torch.tensor([40.0, 0, 5])
    energy = (p.square().sum(1) + 0.1).sqrt()
    jet = event_of_row(LENGTHS)
    return JetBatch(torch.cat([energy[:, None], p], 1), LENGTHS, scalars=jet[:, None].float(), target=torch.arange(4))


def perturbed(name, strength, seed=1):
    return PERTURBATIONS[name].apply(jets(), strength, torch.Generator().manual_seed(seed))


def sums(batch):
    """The momentum of each jet, (B, 4)."""
    return torch.zeros(len(batch), 4).index_add(0, event_of_row(batch.lengths), batch.fourmomenta)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation(name):
    """Strength 0 changes nothing; others are repeatable, keep the jets apart and the empty jet empty."""
    torch.manual_seed(5)
    before = jets()
    torch.manual_seed(5)
    nothing = perturbed(name, 0.0)
    torch.testing.assert_close(nothing.fourmomenta, before.fourmomenta)
    assert torch.equal(nothing.lengths, before.lengths) and torch.equal(nothing.scalars, before.scalars)
    for strength in PERTURBATIONS[name].strengths:
        torch.manual_seed(5)
        found = perturbed(name, strength)
        torch.manual_seed(5)
        assert torch.equal(found.fourmomenta, perturbed(name, strength).fourmomenta)
        assert len(found.fourmomenta) == len(found.scalars) == int(found.lengths.sum())
        assert found.lengths[1] == 0 and found.lengths[2] >= 1 and found.target is not None
        assert torch.equal(found.scalars[:, 0].long(), event_of_row(found.lengths))
        assert torch.isfinite(found.fourmomenta).all()


def test_energies_and_directions():
    """The scale is exact; smeared energies keep directions, smeared directions keep pT and mass; widths are right."""
    torch.manual_seed(5)
    before = jets().fourmomenta
    for name, strength in (("scale", 0.1), ("energies", 0.1), ("directions", 0.01)):
        torch.manual_seed(5)
        after = perturbed(name, strength).fourmomenta
        ratio = after[:, 0] / before[:, 0]
        if name == "directions":
            torch.testing.assert_close(transverse_momentum(after), transverse_momentum(before))
            torch.testing.assert_close(mass(after.double()), mass(before.double()), atol=0.05, rtol=0)
            assert float(delta_r(after, before).square().mean().sqrt()) == pytest.approx(0.01 * 2**0.5, rel=0.1)
        else:
            torch.testing.assert_close(after, before * ratio[:, None])
            assert float(ratio.log().std()) == pytest.approx(0.1 if name == "energies" else 0, abs=0.01)
            assert name == "energies" or float(ratio.mean()) == pytest.approx(1.1)


def test_soft_particles():
    """The loss removes what is soft; added particles are soft, near the axis and about as many as asked for."""
    torch.manual_seed(5)
    found = perturbed("loss", 40.0)
    pt = transverse_momentum(found.fourmomenta)
    assert (pt[: int(found.lengths[0])] >= 40).all() and 100 < found.lengths[3] < 300 and found.lengths[2] == 1
    torch.manual_seed(5)
    before = jets()
    torch.manual_seed(5)
    found = perturbed("addition", 300.0)
    added = found.lengths - before.lengths
    assert added[1] == 0 and all(250 < n < 350 for n in added[[0, 2, 3]])
    soft = found.fourmomenta[transverse_momentum(found.fourmomenta) < 15]
    assert float(transverse_momentum(soft).mean()) == pytest.approx(SOFT_PT, rel=0.1)
    first = found.fourmomenta[int(before.lengths[0]) : int(found.lengths[0])]  # behind the particles of the jet
    distance = delta_r(first, sums(before)[:1].expand_as(first))
    assert float(distance.max()) < SOFT_RADIUS + 0.02
    assert float(distance.square().mean()) == pytest.approx(SOFT_RADIUS**2 / 2, rel=0.15)


def test_splitting_conserves_momentum():
    """The sum of each jet stays, and the number of particles grows by the fraction."""
    torch.manual_seed(5)
    before = jets()
    torch.manual_seed(5)
    found = perturbed("splitting", 0.5)
    torch.testing.assert_close(sums(found), sums(before), rtol=1e-5, atol=1e-3)
    assert 170 < found.lengths[3] - 400 < 230
    assert (found.fourmomenta[:, 0] > 0).all()


def test_hardest():
    """The hardest particles of each jet, in falling order, with their features."""
    batch = hardest(jets(), 5)
    assert batch.lengths.tolist() == [5, 0, 1, 5]
    torch.manual_seed(0)
    whole = jets()
    torch.manual_seed(0)
    kept = hardest(jets(), 5).fourmomenta[-5:]
    pt = transverse_momentum(whole.fourmomenta[-400:])
    assert torch.equal(transverse_momentum(kept), pt.sort(descending=True).values[:5])
    assert torch.equal(batch.scalars[:, 0].long(), event_of_row(batch.lengths))
    assert torch.equal(hardest(jets(), -1).lengths, LENGTHS)
