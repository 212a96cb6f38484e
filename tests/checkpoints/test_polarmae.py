"""Published .ckpt files: their numbers, and what is refused."""

import copy

import numpy as np
import pytest
import torch

from puffin.checkpoints.polarmae import published_network
from puffin.checkpoints.reading import read_checkpoint
from puffin.errors import InputError
from puffin.layers.packed import unpad
from puffin.losses.clouds import CLASS_LOSSES
from puffin.models.point_mae import PointMAE
from puffin.models.segmentation import Segmentation
from tests.conftest import golden_files

TOLERANCE = 2e-4  # absolute, of tests/golden/README.md
MASKED = golden_files("polarmae", "p*mae.npz")
SEGMENTATION = golden_files("polarmae", "segmentation.npz")


def read(path):
    """The published network, and its inputs and outputs as tensors."""
    checkpoint = path.with_suffix(".ckpt")
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
    return published_network(read_checkpoint(checkpoint), checkpoint.name), arrays


def largest_error(found, expected) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max())


@pytest.mark.parametrize("path", MASKED, ids=lambda path: path.stem)
@torch.no_grad()
def test_masked_autoencoder(path):
    """Tokens, encoder outputs and losses with the mask given; any change of the mathematics breaks it."""
    model, z = read(path)
    valid, points = z["emb_mask"], unpad(z["points"], z["lengths"])
    tokens = model.encoder.tokenize(points, z["lengths"])
    masked = z["masked"][valid]
    assert torch.equal(tokens.lengths, valid.sum(1)) and torch.equal(tokens.centres, z["centers"][valid])
    assert largest_error(model.encoder.embed(tokens)[:, ::8], z["tokens"][valid]) < TOLERANCE
    assert largest_error(model.encoder.encode(tokens)[:, ::4], z["encoder_full"][valid]) < TOLERANCE
    visible = model.encoder.encode(tokens.select(~masked))
    assert largest_error(visible[:, ::4], z["encoder_visible"][z["unmasked"]]) < TOLERANCE

    result = model(points, z["lengths"], masked)
    losses = result.losses()
    assert losses.keys() == {"chamfer", "energy"} & {name.removeprefix("loss_") for name in z}
    for name, loss in losses.items():
        assert largest_error(loss, z[f"loss_{name}"]) < TOLERANCE


@pytest.mark.parametrize("path", SEGMENTATION, ids=lambda path: path.stem)
@torch.no_grad()
def test_segmentation(path):
    """Log-probabilities, classes and focal loss."""
    model, z = read(path)
    logits = model(unpad(z["points"], z["lengths"]), z["lengths"]).logits
    assert largest_error(logits.log_softmax(1), unpad(z["log_prob"], z["lengths"])) < TOLERANCE
    assert torch.equal(logits.argmax(1), unpad(z["pred"], z["lengths"]))
    target = unpad(z["semantic_id"], z["lengths"])[:, 0]
    focal = CLASS_LOSSES["focal"]
    assert largest_error(focal.value(focal.sums(logits, target, z["class_weight"]), None), z["loss"]) < TOLERANCE


@torch.no_grad()
def test_compat_choices_matter():
    """The clean network with the same weights gives other numbers: published weights need their two choices."""
    model, z = read(MASKED[0])
    points = unpad(z["points"], z["lengths"])
    tokens = model.encoder.tokenize(points, z["lengths"])
    with_padding = model.encoder.embed(tokens)
    model.encoder.embedding.padding_row = False
    assert largest_error(model.encoder.embed(tokens), with_padding) > 10 * TOLERANCE
    alone = model.encoder.tokenize(points[: z["lengths"][0]], z["lengths"][:1])
    together = model.encoder.encode(tokens)[: len(alone)]
    assert largest_error(model.encoder.encode(alone), together) > 10 * TOLERANCE


def test_settings_are_read():
    """Class of the network, sizes, and tokenizer arguments come from the stored settings."""
    checkpoint = read_checkpoint(SEGMENTATION[0].with_suffix(".ckpt"))
    model = published_network(checkpoint, "file")
    assert isinstance(model, Segmentation) and not model.training
    assert model.config.layers == (0, 1) and model.config.head_dim == 64 and model.config.encoder.transformer.depth == 2
    changed = copy.deepcopy(checkpoint)
    changed["hyper_parameters"]["encoder"]["init_args"]["tokenizer_kwargs"] |= {
        "context_length": 77,
        "overlap_factor": 0.9,
        "use_fps_seed": True,
        "num_init_groups": 300,
        "reduction_method": "energy",
    }
    tokenizer = published_network(changed, "file").config.encoder.tokenizer
    assert (tokenizer.context, tokenizer.overlap, tokenizer.seeds, tokenizer.reduction) == (77, 0.9, 300, "energy")
    assert isinstance(published_network(read_checkpoint(MASKED[0].with_suffix(".ckpt")), "file"), PointMAE)


def _damage(checkpoint, kind):
    settings, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    arguments = settings["encoder"]["init_args"]
    name = "encoder.pos_embed.pos_enc.0.weight"
    if kind == "no settings":
        del checkpoint["hyper_parameters"]
    elif kind == "missing weight":
        del state[name]
    elif kind == "unknown weight":
        state["encoder.rotary.weight"] = torch.zeros(3)
    elif kind == "wrong shape":
        state[name] = torch.zeros(5, 3)
    elif kind == "voxel size":
        arguments["voxel_size"] = 7
    elif kind == "bias":
        arguments["apply_relative_position_bias"] = True
    elif kind == "arch":
        arguments["arch"] = "vit_huge"
    elif kind == "no classes":
        del settings["num_classes"]


@pytest.mark.parametrize(
    "kind, words",
    [
        ("no settings", "not a published"),
        ("missing weight", "1 weights are missing"),
        ("unknown weight", "no such weight"),
        ("wrong shape", "(5, 3)"),
        ("voxel size", "2.5, 5, 25"),
        ("bias", "apply_relative_position_bias"),
        ("arch", "vit_huge"),
        ("no classes", "num_classes"),
    ],
)
def test_what_does_not_fit_is_refused(kind, words):
    checkpoint = read_checkpoint(SEGMENTATION[0].with_suffix(".ckpt"))
    _damage(checkpoint, kind)
    with pytest.raises(InputError) as error:
        published_network(checkpoint, "some.ckpt")
    assert words in str(error.value) and "some.ckpt" in str(error.value)
