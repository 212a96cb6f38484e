"""The dense network for one jet against golden vectors and against the packed networks that are trained."""

import itertools
import json

import numpy as np
import pytest
import torch

from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.layers.activations import ACTIVATIONS
from puffin.layers.norms import NORMS
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.models.single_jet import single_jet
from puffin.settings.stabilizers import METHODS, STABILIZERS
from tests.conftest import relative
from tests.models.test_pelican import FILES, config_of, jets, small

CHOICES = list(itertools.product(STABILIZERS, METHODS))
LETTERS = ("s", "M", "xN", "S", "mX", "n", "sMxn", "Xm")


@pytest.mark.parametrize("path", FILES, ids=[f.stem for f in FILES])
@torch.no_grad()
def test_golden(path):
    """Every jet of every golden configuration: none is left out, so what the dense network cannot do would show."""
    z = np.load(path)
    arrays = {k: torch.from_numpy(z[k]) for k in z.files if k != "meta"}
    scalars, mask = arrays.get("input/scalars"), arrays["input/particle_mask"]
    network = PelicanClassifier if path.name.startswith("classifier") else PelicanRegressor
    kwargs = json.loads(str(z["meta"]))["kwargs"]
    model = network(config_of(kwargs, 0 if scalars is None else scalars.shape[-1])).double()
    model.load_state_dict({k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")})
    one = single_jet(model)
    for k in range(len(mask)):
        out, second = one(arrays["input/Pmu"][k, mask[k]], None if scalars is None else scalars[k, mask[k]])
        assert relative(out.flatten(), arrays["eval/predict"][k].flatten()) < 1e-10
        if network is PelicanRegressor:
            published = arrays["eval/weights"][k]
            spurions = torch.ones(len(published) - mask.shape[1], dtype=torch.bool)
            assert relative(second, published[torch.cat([spurions, mask[k]])]) < 1e-10


def trained(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and running statistics as after training: biases and exponents that start at zero would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model.double().eval()


def equal(model, scalars: int = 0, scale: float = 1.0) -> None:
    """Jets of 1, 2 and 7 particles alone, densely, against the same jets as one packed batch."""
    lengths = [1, 7, 2]
    batch = jets(lengths)
    features = torch.randn(10, scalars, dtype=torch.float64) if scalars else None
    one = single_jet(model, scale)
    with torch.no_grad():
        together = model(JetBatch(batch.fourmomenta * scale, batch.lengths, scalars=features))
        parts = features.split(lengths) if scalars else [None] * 3
        alone = [one(p, f) for p, f in zip(batch.fourmomenta.split(lengths), parts, strict=True)]
    if isinstance(model, PelicanClassifier):
        expected = list(zip(together, together.softmax(1), strict=False))
    else:
        expected = list(zip(together.fourmomenta, together.weights.split(together.lengths.tolist()), strict=False))
    for found, wanted in zip(alone, expected, strict=True):
        assert found[0].isfinite().all()
        assert relative(found[0], wanted[0]) < 1e-10 and relative(found[1], wanted[1]) < 1e-10


@pytest.mark.parametrize("network", [PelicanClassifier, PelicanRegressor])
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_equals_packed(choice, network):
    """Each stabilizer and method, with all letters, activations, norms and switches in turn."""
    number = CHOICES.index(choice)

    def pick(options, shift=0):
        return list(options)[(number + shift) % len(options)]

    def flag(period):
        return number // period % 2 == 0

    config = small(
        stabilizer=choice[0],
        method=choice[1],
        config=pick(LETTERS),
        config_out=pick(LETTERS, 3),
        activation=pick(ACTIVATIONS),
        batchnorm=pick(NORMS),
        factorize=flag(2),
        activate_agg=flag(3),
        activate_lin=flag(4),
        activate_agg_out=flag(5),
        activate_lin_out=flag(7),
        mlp_out=number % 3 > 0,
        add_beams=number % 5 == 0,
        num_scalars=number % 3,
        num_classes=2 + number % 3,
        num_targets=1 + number % 2,
        scale=0.5,
        num_channels_m=((8, 6), ()) if number % 4 == 0 else ((8,), (8,)),
    )
    equal(trained(network(config)), config.num_scalars, scale=pick((1.0, 0.1)))


@pytest.mark.parametrize("network", [PelicanClassifier, PelicanRegressor])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("stabilizer", ["so13", "so2", "1"])
def test_irc_safe_equals_packed(stabilizer, diagonal, network):
    """Weighted sums, angles, and no diagonal maps; without the weights the scores would be others."""
    method = "spurions" if stabilizer == "so13" else "input"
    config = small(
        stabilizer=stabilizer, method=method, config="s", config_out="s", irc_safe=True, irc_diagonal=diagonal
    )
    equal(trained(network(config)))


def test_soft_drop_is_refused():
    """The multiplicity needs a clustering; silence would export a network that divides by something else."""
    model = PelicanClassifier(small(stabilizer="so13", config="sM", config_out="s", irc_safe=True))
    with pytest.raises(InputError, match="soft-drop"):
        single_jet(model)


def test_model_is_left_alone():
    """The trained network stays in its mode, with its layers, and does not share its weights."""
    model = PelicanClassifier(small()).double()
    kinds = [type(layer) for layer in model.modules()]
    one = single_jet(model)
    assert model.training and [type(layer) for layer in model.modules()] == kinds and not one.training
    batch = jets([4])
    before = one(batch.fourmomenta)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(one(batch.fourmomenta)[0], before)
