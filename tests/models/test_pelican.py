"""The classifier against golden vectors, symmetries, independence of batch-mates."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.data.packing import JetBatch, pack_padded
from src.models.pelican import PelicanClassifier, PelicanConfig
from tests.conftest import golden_files, relative

NORM = {"b": "batch", "i": "instance", "l": "layer", None: "none"}
FILES = golden_files("pelican", "classifier_*.npz")


def config_of(kwargs: dict) -> PelicanConfig:
    """Our configuration from the constructor arguments kept in a golden file."""
    widths = ("num_channels_2to2", "num_channels_m_out", "num_channels_out")
    same = (
        "num_channels_scalar", "num_classes", "stabilizer", "method", "config", "config_out", "factorize", "activation",
        "activate_agg", "activate_lin", "activate_agg_out", "activate_lin_out", "mlp_out", "irc_safe",
    )  # fmt: skip
    return PelicanConfig(
        **{k: kwargs[k] for k in same if k in kwargs}, **{k: tuple(kwargs[k]) for k in widths},
        num_channels_m=tuple(map(tuple, kwargs["num_channels_m"])), nobj_avg=kwargs["average_nobj"],
        batchnorm=NORM[kwargs["batchnorm"]], num_scalars={"jc": 12, "qg": 14}.get(kwargs["dataset"], 0), irc_diagonal=True,
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=[f.stem for f in FILES])
def test_golden(path):
    """Outputs in both modes, the loss, gradients and running statistics; any change of the mathematics breaks it."""
    z = np.load(path)
    arrays = {k: torch.from_numpy(z[k]) for k in z.files if k != "meta"}
    group = lambda prefix: {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}  # noqa: E731
    model = PelicanClassifier(config_of(json.loads(str(z["meta"]))["kwargs"])).double()
    model.load_state_dict(group("state/"))
    batch = pack_padded(arrays["input/Pmu"], arrays["input/particle_mask"], arrays.get("input/scalars"))

    model.eval()
    assert relative(model(batch).detach(), arrays["eval/predict"]) < 1e-9
    model.train()
    out = model(batch)
    assert relative(out.detach(), arrays["train/predict"]) < 1e-9
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    assert abs(float(loss.detach()) - float(arrays["train/loss"])) <= 1e-9 * max(abs(float(arrays["train/loss"])), float(out.detach().abs().max()))
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
        num_channels_scalar=3, num_channels_m=((8,), (8,)), num_channels_2to2=(5, 5), num_channels_m_out=(7, 5), num_channels_out=(6,),
    )  # fmt: skip
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
    """Autocast must leave the embedding of the invariants alone: there its eight bits would be all noise."""
    model = PelicanClassifier(small()).eval()
    batch = jets([6, 9, 4]).to(torch.device("cpu"), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model(batch)
    assert relative(coarse.float(), model(batch).detach()) < 0.1


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
    import yaml

    from tests.conftest import ROOT

    for name, parameters in {"3k": 3510, "208k": 208000, "48k": 48000, "24k": 24000, "11k": 11000, "6k": 6000}.items():
        preset = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        fields = {k.replace("-", "_"): v for k, v in preset.items()}
        fields["num_channels_m"] = tuple(map(tuple, fields["num_channels_m"]))
        model = PelicanClassifier(PelicanConfig(stabilizer="so2", **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}))
        count = sum(p.numel() for p in model.parameters())
        assert count == parameters if name == "3k" else abs(count / parameters - 1) < 0.12, (name, count)
