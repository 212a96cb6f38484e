"""Invariants, spurions, projections and IRC-safe inputs under the transformations of each stabilizer."""

from dataclasses import replace

import pytest
import torch

from puffin.layers.lorentz import (
    COMPONENTS,
    PROJECTIONS,
    PUBLISHED_PROJECTIONS,
    irc_angles,
    irc_weights,
    minkowski,
    num_rank2_inputs,
    prepend_spurions,
    rank2_inputs,
)
from puffin.settings.stabilizers import SPURIONS
from tests.conftest import relative
from tests.layers.equivariance import (
    BatchMates,
    LorentzStabilizer,
    PairLayer,
    Permutations,
    assert_equivariant,
    geometry,
)


def test_minkowski():
    """E E' - p.p'; with itself, the squared mass."""
    p = torch.tensor([5.0, 3.0, 0.0, 0.0], dtype=torch.float64)
    assert minkowski(p, p) == 16 and minkowski(p, torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64)) == 7


def inputs_of_all_pairs(stabilizer: str, method: str) -> PairLayer:
    """Momenta to the inputs of all pairs."""
    return PairLayer(
        lambda p, g: g.index.mirror(rank2_inputs(p, g, stabilizer, method)), "nodes", "pairs", momenta=True
    )


@pytest.mark.parametrize("stabilizer", SPURIONS)
def test_inputs_are_invariant(stabilizer):
    """Boosts and rotations of the stabilizer change no input; the complement and a stretched space do."""
    group = LorentzStabilizer(forms=COMPONENTS[stabilizer])
    layer = inputs_of_all_pairs(stabilizer, "input")
    assert_equivariant(layer, group)
    for other in (Permutations(), BatchMates()):
        assert_equivariant(layer, other)
    pairs = geometry([3])
    assert rank2_inputs(torch.randn(3, 4).double(), pairs, stabilizer, "input").shape == (
        6,
        num_rank2_inputs(stabilizer, "input"),
    )


@pytest.mark.parametrize("stabilizer", SPURIONS)
def test_dot_products_with_spurions_are_invariant(stabilizer):
    """The particles are transformed, the spurions are not: only the stabilizer leaves the dot products unchanged."""

    def function(p, pairs):
        with_spurions = prepend_spurions(p, None, pairs.index.lengths, SPURIONS[stabilizer])
        return rank2_inputs(with_spurions.fourmomenta, geometry(with_spurions.lengths), "so13", "spurions")

    assert_equivariant(
        PairLayer(function, "nodes", "pairs", momenta=True), LorentzStabilizer(vectors=SPURIONS[stabilizer])
    )


def test_prepend_spurions_by_hand():
    """Spurions come first in each event, also in an empty one, and labels after the scalars."""
    p, scalars = torch.arange(8.0).view(2, 4), torch.tensor([[7.0], [8.0]])
    out = prepend_spurions(p, scalars, torch.tensor([1, 0, 1]), ((1.0, 0, 0, 1), (0, 0, 0, 1.0)))
    assert out.lengths.tolist() == [3, 2, 3]
    assert torch.equal(out.fourmomenta[[2, 7]], p)
    assert torch.equal(out.fourmomenta[[0, 3, 5]], torch.tensor([[1.0, 0, 0, 1]]).expand(3, 4))
    assert out.scalars.tolist() == [
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [7, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [8, 1, 0, 0],
    ]


@pytest.mark.parametrize("stabilizer", SPURIONS)
def test_projections_are_covariant(stabilizer):
    """Each projection commutes with the stabilizer, and they add up to the momentum; the published se2 does not."""
    forms = COMPONENTS[stabilizer]

    def parts(table):
        matrices = torch.tensor(table[stabilizer], dtype=torch.float64)
        return PairLayer(lambda p, g: torch.einsum("kab,nb->nka", matrices, p), "nodes", "nodes", momenta=True)

    group = LorentzStabilizer(forms=forms, covariant=True)
    if len(PROJECTIONS[stabilizer]) > 1:
        # with several parts a transformation outside the stabilizer mixes them, which the controls see
        assert_equivariant(parts(PROJECTIONS), group)
    if stabilizer != "se2":
        assert torch.equal(torch.tensor(PROJECTIONS[stabilizer]).sum(0), torch.eye(4))
        return
    with pytest.raises(AssertionError, match="stabilizer: relative change"):
        assert_equivariant(parts(PUBLISHED_PROJECTIONS), group)


def irc_features(p, pairs):
    """Weights of nodes, summed over the pairs of equal angle: what an IRC-safe sum sees."""
    dots = rank2_inputs(p, pairs, "so13", "input")
    weights, scale = irc_weights(dots, pairs)
    angles = pairs.index.mirror(irc_angles(dots, scale, pairs))
    return replace(pairs, weights=weights).sums(angles.square())[1].rows


def test_irc_inputs_are_symmetric():
    """Angles and weights are invariant under all Lorentz transformations and know no order or batch-mates."""
    layer = PairLayer(irc_features, "nodes", "nodes", momenta=True)
    for group in (LorentzStabilizer(), Permutations()):
        assert_equivariant(layer, group)


@pytest.mark.parametrize("fraction", [0.5, 0.3, 1 - 1e-9])
def test_irc_inputs_under_a_splitting(fraction):
    """A massless particle is split in two collinear ones, also softly: the row sums of the others stay."""
    direction = torch.randn(5, 3, dtype=torch.float64)
    p = torch.cat([direction.norm(dim=1, keepdim=True), direction], 1)
    split = torch.cat([fraction * p[:1], (1 - fraction) * p[:1], p[1:]])
    before, after = irc_features(p, geometry([5])), irc_features(split, geometry([6]))
    assert relative(after[2:], before[1:]) < 1e-9 and relative(after[:1], before[:1]) < 1e-9
    unweighted = [(geometry([len(q)]).sums(torch.ones(len(q) ** 2, 1).double())[1].rows) for q in (p, split)]
    assert relative(unweighted[1][2:], unweighted[0][1:]) > 0.1  # without weights the splitting shows


def test_weights_add_up_to_one_and_a_lone_particle_has_none():
    dots = rank2_inputs(torch.randn(4, 4).double(), geometry([3, 1]), "so13", "input")
    assert abs(float(irc_weights(dots, geometry([3, 1]))[0][:3].sum()) - 1) < 1e-12
    lone = rank2_inputs(torch.tensor([[1.0, 1, 0, 0]]).double(), geometry([1]), "so13", "input")
    assert all(x.isfinite().all() for x in irc_weights(lone, geometry([1])))
