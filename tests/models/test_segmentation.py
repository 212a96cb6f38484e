"""The segmentation network: batch-mates, small events, what learns.  Golden vectors: test_polarmae.py."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from puffin.models.segmentation import Segmentation
from puffin.settings.clouds import FINETUNE, SegmentationConfig, spread_layers
from puffin.settings.encoder import EncoderConfig, TokenizerConfig, TransformerConfig
from tests.layers.clouds import tracks, without_gradient

CONFIG = SegmentationConfig(
    EncoderConfig(TokenizerConfig(), TransformerConfig("vit_tiny", 2, 0.0, 0.0)),
    layers=(0, 1),
    head_dim=32,
    head_dropout=0.0,
)


@torch.no_grad()
def test_event_alone_equals_event_in_batch():
    model = Segmentation(CONFIG).double().eval()
    points, lengths = tracks([120, 300, 40], dtype=torch.float64)
    together = model(points, lengths).logits
    assert together.shape == (460, 4)
    torch.testing.assert_close(model(points[120:420], lengths[1:2]).logits, together[120:420])


@torch.no_grad()
def test_features_are_means_over_blocks():
    """Each chosen block's output is normalised on its own, then averaged; other blocks do not count."""
    model = Segmentation(replace(CONFIG, layers=(1,))).double().eval()
    points, lengths = tracks([200], dtype=torch.float64)
    tokens = model.encoder.tokenize(points, lengths)
    last = model.token_features(tokens)
    torch.testing.assert_close(last, model.encoder.transformer.normalised(model.encoder.encode(tokens)))
    torch.testing.assert_close(last.std(1, unbiased=False), torch.ones_like(last[:, 0]), atol=1e-3, rtol=0)
    both = Segmentation(CONFIG).double().eval()
    both.load_state_dict(model.state_dict())
    assert float((both.token_features(tokens) - last).abs().max()) > 1e-3


@pytest.mark.parametrize("geometry", [False, True])
def test_every_weight_learns(geometry):
    model = Segmentation(replace(CONFIG, geometry=geometry))
    points, lengths = tracks([300, 0, 1, 150])
    F.cross_entropy(model(points, lengths).logits, torch.randint(4, (451,))).backward()
    assert without_gradient(model) == []


def test_training_tells_halves_apart():
    """Thirty steps: the beginning of each track is one class, the rest another."""
    model = Segmentation(replace(CONFIG, num_classes=2))
    points, lengths = tracks([300, 200])
    target = (torch.arange(500) % 300 > 120).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(points, lengths).logits, target).backward()
        optimizer.step()
    assert (model(points, lengths).logits.argmax(1) == target).float().mean() > 0.9


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [1, 0, 3]])
@pytest.mark.parametrize("training", [False, True])
def test_hardly_any_points(lengths, training):
    model = Segmentation(CONFIG).train(training)
    logits = model(*tracks(lengths)).logits
    assert logits.shape == (sum(lengths), 4) and logits.isfinite().all()
    logits.sum().backward()


@torch.no_grad()
def test_autocast():
    model = Segmentation(CONFIG).eval()
    points, lengths = tracks([200, 100])
    with torch.autocast("cpu", torch.bfloat16):
        half = model(points, lengths).logits
    assert float((half - model(points, lengths).logits).abs().max()) < 0.1


@pytest.mark.parametrize("finetune", FINETUNE)
def test_what_learns(finetune):
    """The head always learns; of the encoder all, nothing, or updates of its attention. If the embedding is frozen, its
    running statistics do not change. Breaks if a frozen encoder is left in training mode."""
    model = Segmentation(replace(CONFIG, finetune=finetune, lora_rank=2))
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.train()
    assert model.encoder.embedding.training == (finetune == "fft") and model.head.training
    points, lengths = tracks([300, 150])
    optimizer = torch.optim.SGD(model.parameter_groups()[0]["params"], lr=0.1)
    for _ in range(2):  # the first step moves one factor of an update, the second the other
        F.cross_entropy(model(points, lengths).logits, torch.randint(4, (450,))).backward()
        optimizer.step()
    moved = {name for name, value in model.encoder.state_dict().items() if not torch.equal(value, before[name])}
    if finetune == "fft":
        assert moved == set(before)
    else:
        assert moved == ({name for name in before if name.endswith((".up", ".down"))} if finetune == "lora" else set())
    assert all(p.grad is not None for p in model.head.parameters())


def test_layer_decay():
    """One more factor per block, the embedding last; every trainable parameter is in one group, the head's first."""
    model = Segmentation(replace(CONFIG, head_depth=1))
    groups = model.parameter_groups(0.5)
    assert [group["lr_scale"] for group in groups] == [1, 0.5, 0.25, 0.125]
    places = {id(p): k for k, group in enumerate(groups) for p in group["params"]}
    assert len(places) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        part = name.split(".")
        expected = 2 - int(part[3]) if part[1] == "transformer" else 3 if part[0] == "encoder" else 0
        assert places[id(p)] == expected, name
    (only,) = model.parameter_groups()
    assert "lr_scale" not in only and len(only["params"]) == len(places)


@pytest.mark.parametrize("finetune", FINETUNE)
def test_blocks_beyond_the_last_layer(finetune):
    """They are not called, so they are frozen and other processes do not wait for their gradients. Breaks if they are
    frozen before low-rank updates are added."""
    model = Segmentation(replace(CONFIG, layers=(0,), finetune=finetune, lora_rank=2))
    points, lengths = tracks([100])
    model(points, lengths).logits.sum().backward()
    unused = {n for n, _ in model.named_parameters() if n.startswith("encoder.transformer.blocks.1.")}
    idle = set(without_gradient(model))
    assert unused and (idle == unused if finetune == "fft" else idle > unused)
    assert all(p.requires_grad == (p.grad is not None) for p in model.parameters())


def test_transformer_in_the_head():
    """Its blocks see the tokens of their own event only, and learn."""
    model = Segmentation(replace(CONFIG, head_depth=2)).double()
    points, lengths = tracks([120, 300], dtype=torch.float64)
    logits = model(points, lengths).logits
    logits.sum().backward()
    assert without_gradient(model) == []
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(points[:120], lengths[:1]).logits, model(points, lengths).logits[:120])


def test_layers_of_other_depths():
    assert [spread_layers(depth) for depth in (12, 6, 4, 2, 1)] == [(3, 7, 11), (1, 3, 5), (1, 2, 3), (0, 1), (0,)]


@pytest.mark.parametrize("layers", [(), (2,), (-1, 0)])
def test_bad_layers(layers):
    with pytest.raises(ValueError, match="blocks of the encoder, 0 to 1"):
        replace(CONFIG, layers=layers)
