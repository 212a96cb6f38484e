"""bench/padded_point_mae.py computes the same as the packed network, so that bench/pointmae.py compares equal work."""

import pytest
import torch

from bench.padded_point_mae import PaddedPointMAE, padded_tokens, slots_of
from puffin.layers.packed import pad
from puffin.models.point_mae import PointMAE
from puffin.settings.clouds import PointMAEConfig
from puffin.settings.encoder import EncoderConfig, TokenizerConfig, TransformerConfig
from tests.layers.clouds import tracks

TINY = TransformerConfig("vit_tiny", 2, attention_dropout=0.0, drop_path=0.0)
CONFIG = PointMAEConfig(
    EncoderConfig(TokenizerConfig(context=64, group_size=12), TINY),
    decoder_depth=1,
)


@pytest.mark.parametrize("training", [False, True])
def test_same_tokens_losses_and_gradients(training):
    packed = PointMAE(CONFIG).double().train(training)
    padded = PaddedPointMAE(CONFIG).double().train(training)
    padded.load_state_dict(packed.state_dict())
    points, lengths = tracks([200, 90, 150], dtype=torch.float64)
    points[:, :3] += 1e-4 * torch.randn(len(points), 3, dtype=torch.float64)  # no distance is exactly the radius
    result = packed(points, lengths)
    tokens = padded_tokens(pad(points, lengths), lengths, CONFIG.encoder.tokens)
    torch.testing.assert_close(tokens.groups[tokens.point_mask], result.tokens.groups)
    assert torch.equal(tokens.token_mask.sum(1), result.tokens.lengths)

    found = padded(tokens, slots_of(result.masked, tokens.token_mask))
    expected = result.losses()
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    ours = dict(packed.named_parameters())
    for name, parameter in padded.named_parameters():
        expected_gradient = ours[name].grad
        torch.testing.assert_close(
            parameter.grad, expected_gradient, rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )
