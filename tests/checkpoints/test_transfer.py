"""Weights that are carried over to a network with another head, or with other features of particles."""

from pathlib import Path

import pytest
import torch

from puffin.checkpoints.checkpoint import PUFFIN, Checkpoint
from puffin.checkpoints.networks import pelican_config
from puffin.checkpoints.transfer import load_jets_
from puffin.data.jet_observables import NAMES
from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.layers.symmetries import toy_momenta
from puffin.models.pelican import PelicanBackbone, PelicanClassifier, PelicanRegressor
from puffin.settings.flags import parse
from puffin.settings.jets import ClassifierSettings, RegressorSettings
from tests.runs.helpers import TINY_PELICAN

SCHEMAS = {PelicanClassifier: ClassifierSettings, PelicanRegressor: RegressorSettings}


def make(kind, flags: str) -> tuple[PelicanBackbone, Checkpoint]:
    """Make a network of these flags with random weights, all of its parameters; return its checkpoint, too."""
    found = parse(SCHEMAS[kind], "", [*TINY_PELICAN, *flags.split()])
    settings = found.settings()
    model = kind(pelican_config(settings.network, settings.data)).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return model, Checkpoint(Path("old.pt"), PUFFIN, found.plain(), model.state_dict(), None)


def carry(old: Checkpoint, kind, flags: str) -> tuple[PelicanBackbone, list[str]]:
    """Carry the weights over to a new network of these flags; return it with the lines for the log."""
    model, _ = make(kind, flags)
    settings = parse(SCHEMAS[kind], "", [*TINY_PELICAN, *flags.split()]).settings()
    return model, load_jets_(model, settings.data, old)


def features(model: PelicanBackbone, scalars: torch.Tensor | None) -> torch.Tensor:
    """Return the output of the blocks for a few jets, whose particles have these features (N, S)."""
    momenta, lengths = toy_momenta(3, torch.Generator().manual_seed(0))
    batch = JetBatch(momenta, lengths, scalars=None if scalars is None else scalars[: len(momenta)])
    return model.through_blocks(batch).pairs


def columns(*names: str) -> torch.Tensor:
    """Return features by name, those of a name always the same: (60, names) float64; "0" is zero."""
    random = {name: torch.Generator().manual_seed(sum(map(ord, name))) for name in names}
    drawn = [torch.randn(60, generator=random[name], dtype=torch.float64) * (name != "0") for name in names]
    return torch.stack(drawn, 1)


@pytest.mark.parametrize(
    ("before", "old", "after", "new", "line"),
    [
        ("", (), "--scalars-keys a,b:tanh", ("a", "b"), "does not have, whose weights start at zero: a, b:tanh"),
        ("--scalars-keys a,b", ("a", "b"), "--scalars-keys b,a", ("b", "a"), ""),
        ("--scalars-keys a,b", ("0", "b"), "--scalars-keys b,c", ("b", "c"), "does not use: a"),
        ("--scalars-keys a", ("0",), "", (), "old.pt that this run does not use: a"),
        ("--scalars-keys a", ("0",), "--scalars-keys a:tanh", ("a",), "start at zero: a:tanh"),
        ("--scalars-keys a --add-beams", ("a",), "--scalars-keys c,a --add-beams", ("c", "a"), "start at zero: c"),
        ("--config-out sM --scalars-keys a", ("a",), "--config-out sM --scalars-keys c,a", ("c", "a"), ""),
        ("--stabilizer so13 --scalars-keys a", ("a",), "--stabilizer so13 --scalars-keys c,a", ("c", "a"), ""),
    ],
)
def test_features_of_particles(before, old, after, new, line):
    """The network computes the same as the one of the checkpoint, of which each feature keeps its weights.

    A new feature has no effect at first, but is learned. Breaks if columns are matched by position, if exponents are
    not moved with them, or if spurion labels move."""
    model, checkpoint = make(PelicanClassifier, before)
    other, lines = carry(checkpoint, PelicanClassifier, after)
    expected = features(model, columns(*old) if old else None)
    found = features(other, columns(*new) if new else None)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert any(line in text for text in lines)
    found.square().sum().backward()
    assert (other.eq1to2.coefs.grad.flatten(1).abs().sum(1) > 0).all()


def test_particle_types_match_by_their_code():
    """From --dataset qg to --read-pid: the same 14 types, and one input for all others, which is new."""
    _, checkpoint = make(PelicanClassifier, "--dataset qg")
    model, lines = carry(checkpoint, PelicanClassifier, "--read-pid")
    assert lines[-1].endswith("start at zero: pdgid=other")
    assert torch.equal(model.eq1to2.coefs[:14], checkpoint.weights["eq1to2.coefs"][:14])
    assert not model.eq1to2.coefs[14].any() and model.eq1to2.coefs[15:].any()


@pytest.mark.parametrize("activation", ["leakyrelu", "relu"])
def test_network_without_labels(activation):
    """A so13 network loses its only features: it computes what the old one computes for features that are 0.

    Channels of pairs replace those of the features, and are learned. The way back is an error, as such a network has no
    channels to give away. Breaks if they start where the embedding has no gradient."""
    flags = f"--stabilizer so13 --activation {activation}"
    model, checkpoint = make(PelicanClassifier, f"{flags} --scalars-keys a")
    other, _ = carry(checkpoint, PelicanClassifier, flags)
    torch.testing.assert_close(features(other, None), features(model, columns("0")), rtol=1e-4, atol=1e-4)
    features(other, None).square().sum().backward()
    assert (other.linear.weight.grad.abs().sum(1) > 0).all()
    _, without = make(PelicanClassifier, flags)
    with pytest.raises(InputError, match="no input for features of particles, but this run has a, b"):
        carry(without, PelicanClassifier, f"{flags} --scalars-keys a,b")


def test_frozen_network_refuses_new_features():
    """Their weights would stay 0."""
    _, checkpoint = make(PelicanClassifier, "")
    model, _ = make(PelicanClassifier, "--scalars-keys a")
    model.freeze_()
    data = parse(ClassifierSettings, "", ["--scalars-keys", "a"]).settings().data
    with pytest.raises(InputError, match="--finetune head: old.pt has no weights for the features a"):
        load_jets_(model, data, checkpoint)


@pytest.mark.parametrize("before", [PelicanClassifier, PelicanRegressor])
@pytest.mark.parametrize("after", [PelicanClassifier, PelicanRegressor])
@pytest.mark.parametrize("head", ["", "--num-channels-out 6 5", "--no-mlp-out"])
def test_head(before, after, head):
    """The same kind of output: all but the last layer. Another one: what comes before, the last messages included."""
    old, checkpoint = make(before, head)
    model, lines = carry(checkpoint, after, f"{head} --num-classes 3" if after is PelicanClassifier else head)
    messages, aggregation, mlp = after.head
    same = {name for name, w in model.state_dict().items() if any(w is v or torch.equal(w, v) for v in _alike(old, w))}
    new = {name for name, _ in model.named_parameters()} - same
    if before is not after:
        expected = (aggregation, mlp)
    else:
        expected = {"": (f"{mlp}.linear.0",), "--no-mlp-out": (aggregation,)}.get(head, (f"{mlp}.linear.1",))
    assert {name.rpartition(".")[0].replace(".alphas", "") for name in new} <= {
        *expected,
        *(f"{mlp}.linear.{k}" for k in range(2) if before is not after),
    }
    assert new and lines[0] == f"layers with new weights: {', '.join(expected)}"
    assert f"{messages}.linear.0.weight" in same


def _alike(model: torch.nn.Module, weight: torch.Tensor) -> list[torch.Tensor]:
    return [w for w in model.state_dict().values() if w.shape == weight.shape and w.dtype == weight.dtype]


@pytest.mark.parametrize(("before", "after"), [("", "--observables"), ("--observables",) * 2, ("--observables", "")])
def test_observables(before, after):
    """Breaks if the part that reads observables is not new where it must be, or is not carried over where it can be."""
    model, checkpoint = make(PelicanClassifier, before)
    if before:
        model.observables.scale.fit_(torch.randn(50, len(NAMES)))
        checkpoint = Checkpoint(checkpoint.path, PUFFIN, checkpoint.settings, model.state_dict(), None)
    other, lines = carry(checkpoint, PelicanClassifier, f"{after} --num-classes 3")
    assert ("are not used by this run" in lines[-1]) == (bool(before) and not after)
    torch.testing.assert_close(features(other, None), features(model, None))
    if after:
        assert other.observables.scale.is_fitted == bool(before)
        same = torch.equal(other.observables.joint.weight, model.observables.joint.weight) if before else False
        assert same == bool(before) and len(other.observables.out.weight) == 3
