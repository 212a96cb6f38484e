"""The encoder on all tokens, as the linear probe uses it."""

import pytest
import torch

from puffin.models.point_encoder import PointEncoder
from puffin.settings.encoder import TOKENIZERS, EncoderConfig, TokenizerConfig, TransformerConfig
from tests.layers.clouds import tracks

CONFIG = EncoderConfig(TokenizerConfig(), TransformerConfig("vit_tiny", 2))


@torch.no_grad()
@pytest.mark.parametrize("voxels", TOKENIZERS)
def test_presets(voxels):
    """Every tokenizer gives the transformer one embedding and one position for each token."""
    model = PointEncoder(EncoderConfig(TokenizerConfig(voxels=voxels), CONFIG.transformer)).eval()
    tokens, features = model(*tracks([2000, 0, 500]))
    assert features.shape == (len(tokens), 192) and features.isfinite().all()
    expected = model.transformer(model.embed(tokens), model.position(tokens.centres), tokens.lengths)
    assert torch.equal(features, expected)


@torch.no_grad()
def test_event_alone_equals_event_in_batch():
    model = PointEncoder(CONFIG).double().eval()
    points, lengths = tracks([120, 300, 40], dtype=torch.float64)
    together = model(points, lengths)
    at = torch.repeat_interleave(together.tokens.lengths) == 1
    torch.testing.assert_close(model(points[120:420], lengths[1:2]).features, together.features[at])


@torch.no_grad()
def test_events_may_be_exchanged():
    """Tokens follow their events when events change places."""
    model = PointEncoder(CONFIG).double().eval()
    points, lengths = tracks([120, 300], dtype=torch.float64)
    tokens, features = model(points, lengths)
    turned = model(torch.cat([points[120:], points[:120]]), lengths.flip(0)).features
    torch.testing.assert_close(turned, torch.cat(features.split(tokens.lengths.tolist())[::-1]))


@torch.no_grad()
def test_embedding_is_relative():
    """A shift of the cloud leaves the embeddings, and changes the features by way of the positions."""
    model = PointEncoder(CONFIG).double().eval()
    points, lengths = tracks([200], dtype=torch.float64)
    points[:, :3] += 1e-4 * torch.randn(200, 3, dtype=torch.float64)  # no distance is exactly the radius
    moved = points + torch.tensor([0.3, -0.5, 0.1, 0.0], dtype=torch.float64)
    before, after = model(points, lengths), model(moved, lengths)
    assert torch.equal(before.tokens.index, after.tokens.index)
    torch.testing.assert_close(model.embed(after.tokens), model.embed(before.tokens))
    assert float((after.features - before.features).abs().max()) > 1e-3
