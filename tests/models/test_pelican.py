"""Classifier and regressor against golden vectors, symmetries, independence of batch-mates."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.presets import pelican_preset
from puffin.checkpoints.networks import pelican_config
from puffin.data.packing import JetBatch, pack_padded
from puffin.models.pelican import PelicanClassifier, PelicanRegressor
from puffin.ops import library
from puffin.settings.flags import parse
from puffin.settings.jets import ClassifierSettings, RegressorSettings
from puffin.settings.pelican import PelicanConfig
from puffin.settings.stabilizers import STABILIZERS
from puffin.tasks.symmetry import irc_variants, network_generators, toy_jets
from tests.conftest import ROOT, golden_files, relative
from tests.ops.processor import with_threads

NORM = {"b": "batch", "i": "instance", "l": "layer", None: "none"}
FILES = golden_files("pelican", "*.npz")


def config_of(kwargs: dict, num_scalars: int) -> PelicanConfig:
    """Our configuration from the constructor arguments in a golden file."""
    widths = ("num_channels_2to2", "num_channels_m_out", "num_channels_out")
    same = (
        "num_channels_scalar",
        "num_classes",
        "stabilizer",
        "method",
        "config",
        "config_out",
        "factorize",
        "activation",
        "activate_agg",
        "activate_lin",
        "activate_agg_out",
        "activate_lin_out",
        "mlp_out",
        "irc_safe",
        "num_targets",
        "scale",
    )
    return PelicanConfig(
        **{k: kwargs[k] for k in same if k in kwargs},
        **{k: tuple(kwargs[k]) for k in widths},
        num_channels_m=tuple(map(tuple, kwargs["num_channels_m"])),
        nobj_avg=kwargs["average_nobj"],
        batchnorm=NORM[kwargs["batchnorm"]],
        num_scalars=num_scalars,
        irc_diagonal=True,
        published_projections=True,
    )


@pytest.mark.parametrize("path", FILES, ids=[f.stem for f in FILES])
def test_golden(path):
    """Outputs in both modes, the loss, gradients and running statistics; any change of the mathematics breaks it."""
    z = np.load(path)
    arrays = {k: torch.from_numpy(z[k]) for k in z.files if k != "meta"}

    def group(prefix):
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    scalars = arrays.get("input/scalars")
    network = PelicanClassifier if path.name.startswith("classifier") else PelicanRegressor
    model = network(
        config_of(json.loads(str(z["meta"]))["kwargs"], 0 if scalars is None else scalars.shape[-1])
    ).double()
    model.load_state_dict(group("state/"))
    batch = pack_padded(arrays["input/Pmu"], arrays["input/particle_mask"], scalars)

    def predict() -> torch.Tensor:
        out = model(batch)
        return out if network is PelicanClassifier else out.fourmomenta.view(arrays["eval/predict"].shape)

    model.eval()
    assert relative(predict().detach(), arrays["eval/predict"]) < 1e-9
    if "eval/weights" in arrays:
        published, mask = arrays["eval/weights"], arrays["input/particle_mask"]
        mask = torch.nn.functional.pad(mask, (published.shape[1] - mask.shape[1], 0), value=True)  # spurions come first
        assert relative(model(batch).weights.detach(), published[mask]) < 1e-9
    model.train()
    out = predict()
    assert relative(out.detach(), arrays["train/predict"]) < 1e-9
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    assert abs(float(loss.detach()) - float(arrays["train/loss"])) <= 1e-9 * max(
        abs(float(arrays["train/loss"])), float(out.detach().abs().max())
    )
    loss.backward()
    largest = max(float(g.abs().max()) for g in group("grad/").values())
    for name, parameter in model.named_parameters():
        assert float((parameter.grad - arrays[f"grad/{name}"]).abs().max()) < 1e-9 * largest, name
    buffers = dict(model.named_buffers())
    for name, value in group("after/").items():
        assert relative(buffers[name], value) < 1e-9, name


def small(**changes) -> PelicanConfig:
    """A small network."""
    base = PelicanConfig(
        num_channels_scalar=3,
        num_channels_m=((8,), (8,)),
        num_channels_2to2=(5, 5),
        num_channels_m_out=(7, 5),
        num_channels_out=(6,),
    )
    return replace(base, **changes)


def jets(lengths, seed=0) -> JetBatch:
    """Random massive particles."""
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(sum(lengths), 3, generator=g, dtype=torch.float64) * 5
    e = (p.square().sum(1, keepdim=True) + 0.1).sqrt()
    return JetBatch(torch.cat([e, p], 1), torch.tensor(lengths), index=torch.arange(len(lengths)))


@pytest.mark.parametrize("batchnorm", ["batch", "instance", "layer", "none"])
@pytest.mark.parametrize("config", ["M", "sX", "n"])
def test_jet_alone_equals_jet_in_batch(batchnorm, config):
    """In eval mode no output may depend on batch-mates; a statistic over the batch would break it."""
    model = PelicanClassifier(small(batchnorm=batchnorm, config=config, config_out=config)).double().eval()
    batch = jets([4, 1, 9])
    together = model(batch)
    for k, p in enumerate(batch.fourmomenta.split([4, 1, 9])):
        assert relative(model(JetBatch(p, torch.tensor([len(p)])))[0], together[k]) < 1e-12


@pytest.mark.parametrize("batchnorm", ["instance", "layer"])
def test_event_norms_train(batchnorm):
    """The published masked versions of these two crash; here they train, and batch-mates still do not matter."""
    model = PelicanClassifier(small(batchnorm=batchnorm)).double().train()
    batch = jets([4, 6])
    out = model(batch)
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    first = JetBatch(batch.fourmomenta[:4], torch.tensor([4]))
    assert relative(model(first)[0], out[0].detach()) < 1e-12


@pytest.mark.parametrize("num_targets", [1, 2])
@pytest.mark.parametrize("method", ["spurions", "input"])
@pytest.mark.parametrize("stabilizer", STABILIZERS)
def test_regressor_is_covariant(stabilizer, method, num_targets):
    """Boosted input, boosted output, for random elements of the stabilizer; anything else must move it elsewhere."""
    config = small(stabilizer=stabilizer, method=method, num_targets=num_targets, scale=0.5)
    model = PelicanRegressor(config).double().eval()
    with torch.no_grad():
        model.linear.weight.add_(torch.randn_like(model.linear.weight) * 0.3)  # all inputs take part
    batch = jets([5, 9, 3])
    stabilizer, complement = network_generators(config)
    out = model(batch).fourmomenta.detach()
    assert out.shape == (3, num_targets, 4)

    def error(generators):
        angles = torch.randn(len(generators), dtype=torch.float64) * 0.3
        boost = torch.linalg.matrix_exp(torch.einsum("k,kij->ij", angles, generators))
        moved = replace(batch, fourmomenta=batch.fourmomenta @ boost.t())
        return relative(model(moved).fourmomenta.detach(), out @ boost.t())

    if len(stabilizer):
        assert error(stabilizer) < 1e-8
    if len(complement):
        assert error(complement) > 1e-5


def test_regressor_is_irc_safe():
    """A soft particle or a collinear splitting must not move the predicted momentum; without --irc-safe they do."""
    massless = toy_jets(4, 0, massless=True)
    for safe in (True, False):
        config = small(stabilizer="so13", config="s", config_out="s", irc_safe=safe)
        model = PelicanRegressor(config).double().eval()
        reference = model(massless).fourmomenta.detach()
        changes = [relative(model(variant).fourmomenta.detach(), reference) for variant in irc_variants(massless)]
        assert max(changes) < 1e-7 if safe else max(changes) > 1e-4


def test_regressor_forgets_batch_mates():
    """Each jet alone gives the same momentum and the same weights, also a jet without particles."""
    model = PelicanRegressor(small()).double().eval()
    batch = jets([4, 0, 6])
    out = model(batch)
    assert torch.isfinite(out.fourmomenta).all() and len(out.weights) == 10 + 3 * 2
    alone = model(JetBatch(batch.fourmomenta[4:], torch.tensor([6])))
    assert relative(alone.fourmomenta[0].detach(), out.fourmomenta[2].detach()) < 1e-12
    assert relative(alone.weights.detach(), out.weights[-8:].detach()) < 1e-12


def test_padding_does_not_exist():
    """Wider zero-padding packs to the same batch."""
    batch = jets([3, 5])
    for width in (5, 9):
        padded = torch.zeros(2, width, 4, dtype=torch.float64)
        padded[0, :3], padded[1, :5] = batch.fourmomenta[:3], batch.fourmomenta[3:]
        again = pack_padded(padded, padded[:, :, 0] != 0)
        assert torch.equal(again.fourmomenta, batch.fourmomenta) and torch.equal(again.lengths, batch.lengths)


def test_empty_jet_with_spurions_is_finite():
    """A jet without particles still has its spurions; a division by the number of particles would give nan."""
    model = PelicanClassifier(small(config="sMxn")).double().train()
    assert torch.isfinite(model(jets([0, 3]))).all()


@pytest.mark.parametrize("letter", "sSmMxXnN")
def test_empty_jet_without_spurions_is_finite(letter):
    """No spurions, no particles: n = 0 must not be divided by, nor its logarithm taken."""
    model = PelicanClassifier(small(stabilizer="so13", config=letter, config_out=letter)).double().eval()
    assert torch.isfinite(model(jets([0, 3]))).all()


def test_bfloat16_is_close():
    """Autocast must not change the embedding of the invariants, where eight bits would leave only noise."""
    model = PelicanClassifier(small()).eval()
    batch = jets([6, 9, 4]).to(torch.device("cpu"), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model(batch)
    assert relative(coarse.float(), model(batch).detach()) < 0.1


@pytest.mark.parametrize("network", [PelicanClassifier, PelicanRegressor])
def test_bfloat16_trains_close_to_float32(network):
    """Loss and gradients under autocast, in the network's parameters and their dtypes, several blocks deep."""
    model = network(small(drop_rate=0.0)).train()
    batch = jets([6, 9, 4, 12, 7, 15]).to(torch.device("cpu"), torch.float32)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = model(batch)
        out = (out if network is PelicanClassifier else out.fourmomenta).float()
        loss = out.square().mean()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        assert all(g.dtype == torch.float32 for g in grads)
        results.append((loss.detach(), torch.cat([g.flatten() for g in grads])))
    (exact, gradient), (loss, coarse) = results
    assert abs(loss / exact - 1) < 0.05
    assert torch.nn.functional.cosine_similarity(coarse, gradient, dim=0) > 0.99


@pytest.mark.skipif(not library.loaded() or library.EMULATED, reason="only the CPU library has kernels for bfloat16")
def test_bfloat16_is_for_pairs_only():
    """Scores under autocast are float32: with eight bits many jets would have the same score."""
    model = PelicanClassifier(small()).eval()
    batch = jets([6, 9, 4]).to(torch.device("cpu"), torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(batch).dtype == torch.float32


@pytest.mark.skipif(not library.loaded() or library.EMULATED, reason="plain PyTorch adds up in the order of threads")
def test_threads_do_not_change_a_bit_of_a_training_step():
    """Loss, gradients, statistics and updated weights with one, two and three threads.

    Breaks if a sum over pairs, nodes or events runs in an order that depends on the number of threads."""
    batch = jets([45, 0, 60, 1, 52, 38, 64, 41, 57]).to(torch.device("cpu"), torch.float32)
    labels = torch.arange(9) % 2

    def train():
        torch.manual_seed(0)
        model = PelicanClassifier(small(num_channels_m=((25,), (25,)), num_channels_2to2=(15, 15))).train()
        optimizer = torch.optim.AdamW(model.parameters())
        loss = torch.nn.functional.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        return [loss.detach(), *(p.grad for p in model.parameters()), *model.state_dict().values()]

    results = with_threads((1, 2, 3), train)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_dropout_only_in_training():
    """drop_rate must act in train mode and never in eval mode."""
    model = PelicanClassifier(small(drop_rate=0.5)).double()
    batch = jets([5, 5])
    model.train()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stabilizer": "so4"}, "stabilizer"),
        ({"config": "q"}, "letters"),
        ({"irc_safe": True}, "IRC-safe"),
        ({"irc_safe": True, "stabilizer": "so13", "config": "x"}, "IRC-safe"),
        ({"num_channels_m": ((8,),)}, "one entry per block"),
        ({"num_channels_scalar": 8}, "num_channels_scalar"),
    ],
)
def test_contradictory_configuration(changes, message):
    """Each bad choice is named."""
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_presets_have_the_size_in_their_name():
    """A changed width, or a parameter too many, moves the count away from the published size."""
    for name, parameters in {"3k": 3510, "208k": 208000, "48k": 48000, "24k": 24000, "11k": 11000, "6k": 6000}.items():
        count = sum(p.numel() for p in PelicanClassifier(pelican_preset(name)).parameters())
        assert count == parameters if name == "3k" else abs(count / parameters - 1) < 0.12, (name, count)


@pytest.mark.parametrize(
    ("schema", "presets", "parameters"),
    [
        (ClassifierSettings, ("48k", "toptag"), 48_482),
        (ClassifierSettings, ("208k", "quark_gluon"), 209_567),
        (ClassifierSettings, ("jetclass",), 211_251),
        (ClassifierSettings, ("jetclass", "jetclass_xl"), 404_919),
        (RegressorSettings, ("48k", "w_in_tops"), 49_001),
    ],
)
def test_presets_of_published_trainings(schema, presets, parameters):
    """Breaks if a preset has a flag that its script does not know, or changes the network of the size before it."""
    files = [str(ROOT / "config" / f"{name}.yaml") for name in presets]
    settings = parse(schema, "", ["--yaml", *files]).settings()
    kind = PelicanClassifier if schema is ClassifierSettings else PelicanRegressor
    model = kind(pelican_config(settings.network, settings.data))
    assert sum(p.numel() for p in model.parameters()) == parameters
