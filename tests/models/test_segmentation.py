"""The segmentation network: batch-mates, small events, what learns.  Golden vectors: test_published_clouds.py."""

from dataclasses import replace

import pytest
import torch

from src.cloud_losses import focal
from src.layers.grouping import TokenizerConfig
from src.layers.transformer import TransformerConfig
from src.models.point_encoder import EncoderConfig
from src.models.segmentation import Segmentation, SegmentationConfig
from tests.layers.clouds import tracks, without_gradient

CONFIG = SegmentationConfig(
    EncoderConfig(TokenizerConfig(), TransformerConfig("vit_tiny", 2, 0.0, 0.0)),
    layers=(0, 1),
    head_dim=32,
    dropout=0.0,
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
    last = model._features(tokens)
    torch.testing.assert_close(last, model.encoder.transformer.normalised(model.encoder.encode(tokens)))
    torch.testing.assert_close(last.std(1, unbiased=False), torch.ones_like(last[:, 0]), atol=1e-3, rtol=0)
    both = Segmentation(CONFIG).double().eval()
    both.load_state_dict(model.state_dict())
    assert float((both._features(tokens) - last).abs().max()) > 1e-3


def test_every_weight_learns():
    model = Segmentation(CONFIG)
    points, lengths = tracks([300, 0, 1, 150])
    focal(model(points, lengths).logits, torch.randint(4, (451,))).backward()
    assert without_gradient(model) == []


def test_training_tells_halves_apart():
    """Thirty steps: the beginning of each track is one class, the rest another."""
    model = Segmentation(replace(CONFIG, num_classes=2))
    points, lengths = tracks([300, 200])
    target = (torch.arange(500) % 300 > 120).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        focal(model(points, lengths).logits, target).backward()
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


@pytest.mark.parametrize("layers", [(), (2,), (-1, 0)])
def test_bad_layers(layers):
    with pytest.raises(ValueError, match="blocks of the encoder, 0 to 1"):
        replace(CONFIG, layers=layers)
