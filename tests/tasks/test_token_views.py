"""Attention of tokens, and tokens with similar embeddings."""

import pytest
import torch

from puffin.models.point_encoder import PointEncoder
from puffin.tasks.token_views import attention, points_of_classes, similar_tokens
from tests.layers.clouds import tracks
from tests.models.test_point_encoder import CONFIG


def test_attention_follows_the_tokens():
    """Rows add up to 1, are of the last block, and move with the tokens. Breaks if another block is read."""
    encoder = PointEncoder(CONFIG).eval()
    tokens = encoder.tokenize(*tracks([300]))
    with torch.no_grad():
        for block in encoder.transformer.blocks[:-1]:
            block.attention.qkv.weight.zero_()  # the same attention to all tokens
        encoder.transformer.blocks[-1].attention.qkv.weight.mul_(30)
    found = attention(encoder, tokens)
    assert found.shape == (len(tokens), len(tokens)) and not encoder.transformer.blocks[-1].attention._forward_pre_hooks
    torch.testing.assert_close(found.sum(1), torch.ones(len(tokens)))
    assert (found - 1 / len(tokens)).abs().max() > 0.01


def test_similar_tokens():
    """They are of other events, the most similar first, and the mean embedding counts for nothing."""
    lengths = torch.tensor([40, 0, 600, 10])
    x = torch.randn(650, 4)
    values, rows = similar_tokens(x + 100, lengths, 3)
    centred = (x - x.mean(0)).double()
    cosine = torch.nn.functional.cosine_similarity(centred[:, None], centred[None], dim=2)
    event = torch.repeat_interleave(lengths)
    cosine[event[:, None] == event] = -2
    torch.testing.assert_close(values, cosine.topk(3, 1).values.float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(cosine.gather(1, rows).float(), values, atol=1e-3, rtol=0)


@pytest.mark.parametrize("lengths, number", [([4], 0), ([4, 2], 2), ([], 0)])
def test_few_other_tokens(lengths, number):
    values, rows = similar_tokens(torch.randn(sum(lengths), 3), torch.tensor(lengths, dtype=torch.int64), 5)
    assert values.shape == rows.shape == (sum(lengths), number)


def test_points_of_classes():
    """Each point of a token counts once; points of a class without a number do not count."""
    points, lengths = tracks([120, 0, 300])
    tokens = PointEncoder(CONFIG).tokenize(points, lengths)
    semantic = torch.randint(0, 5, (len(points),))
    found = points_of_classes(tokens, semantic, 4)
    for token, rows in enumerate(tokens.index.split(tokens.counts.tolist())):
        assert found[token].tolist() == [int((semantic[rows] == k).sum()) for k in range(4)]
