"""Masked autoencoders: masks, what may depend on what, small or odd events.  Golden: test_polarmae.py."""

from dataclasses import replace

import pytest
import torch

from puffin.models.point_mae import PointMAE, random_mask
from puffin.settings.clouds import PointMAEConfig
from puffin.settings.encoder import EncoderConfig, TokenizerConfig, TransformerConfig
from tests.layers.clouds import tracks, without_gradient

TINY = TransformerConfig("vit_tiny", 2, attention_dropout=0.0, drop_path=0.0)
CONFIG = PointMAEConfig(EncoderConfig(TokenizerConfig(group_size=16), TINY), decoder_depth=1)
BARE = replace(CONFIG, decoder_depth=0)  # no decoder
LENGTHS = [300, 0, 1, 150]


def losses(result) -> torch.Tensor:
    return sum(result.losses().values())


@pytest.mark.parametrize("percent", [0, 10, 29, 60, 70, 100])
def test_number_of_masked_tokens(percent):
    """floor(ratio n) in every event, in exact arithmetic: 0.29 of 100 is 29."""
    lengths = torch.arange(120)
    masked = random_mask(lengths, percent / 100)
    expected = [n * percent // 100 for n in range(120)]
    assert [int(event.sum()) for event in masked.split(lengths.tolist())] == expected


def test_masks_are_random_and_reproducible():
    """Every token is masked equally often; the generator decides, and it alone."""
    lengths = torch.tensor([5, 20])
    many = torch.stack([random_mask(lengths, 0.6) for _ in range(2000)]).float().mean(0)
    assert float((many - 0.6).abs().max()) < 0.06
    seeded = [random_mask(lengths, 0.6, torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[0], seeded[2])


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, model="pointmae"), BARE], ids=["polarmae", "pointmae", "no decoder"]
)
def test_every_weight_learns(config):
    model = PointMAE(config)
    losses(model(*tracks(LENGTHS))).backward()
    assert without_gradient(model) == []


def test_training_lowers_the_loss():
    """Forty steps on one batch with one mask."""
    model = PointMAE(CONFIG)
    points, lengths = tracks([300, 200])
    masked = random_mask(model.encoder.tokenize(points, lengths).lengths, 0.6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = losses(model(points, lengths, masked))
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.6 * history[0]


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIG, BARE], ids=["decoder", "no decoder"])
def test_hidden_points_stay_hidden(config):
    """Predictions depend on visible energies, and never on those of points that are in hidden groups alone."""
    model = PointMAE(config).eval()
    points, lengths = tracks([300])
    tokens = model.encoder.tokenize(points, lengths)
    masked = random_mask(tokens.lengths, 0.6)
    before = model(points, lengths, masked)
    visible = tokens.select(~masked).index.unique()
    only_hidden = torch.ones(len(points), dtype=torch.bool).index_fill(0, visible, False)
    assert only_hidden.any()
    for changed, same in ((only_hidden, True), (~only_hidden, False)):
        other = torch.cat([points[:, :3], torch.where(changed, 1 - points[:, 3], points[:, 3])[:, None]], 1)
        after = model(other, lengths, masked)
        assert torch.equal(after.points, before.points) == same
        assert torch.equal(after.energy, before.energy) == same


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIG, BARE], ids=["decoder", "no decoder"])
def test_event_alone_equals_event_in_batch(config):
    model = PointMAE(config).double().eval()
    points, lengths = tracks([120, 300, 40], dtype=torch.float64)
    together = model(points, lengths)
    event = torch.repeat_interleave(together.tokens.lengths)
    alone = model(points[120:420], lengths[1:2], together.masked[event == 1])
    at = event[together.masked] == 1
    torch.testing.assert_close(alone.points, together.points[at])
    torch.testing.assert_close(alone.energy, together.energy[at])


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [1, 0, 2]])
@pytest.mark.parametrize("training", [False, True])
def test_hardly_any_points(lengths, training):
    """No event, no point, nothing masked: a finite loss and a gradient."""
    model = PointMAE(CONFIG).train(training)
    result = model(*tracks(lengths))
    loss = losses(result)
    loss.backward()
    assert loss.isfinite() and len(result.points) == int(result.masked.sum())


@pytest.mark.parametrize("all_masked", [False, True])
def test_all_visible_or_none(all_masked):
    model = PointMAE(CONFIG)
    points, lengths = tracks(LENGTHS)
    number = len(model.encoder.tokenize(points, lengths))
    result = model(points, lengths, torch.full((number,), all_masked))
    assert len(result.points) == number * all_masked
    losses(result).backward()


def test_precisions():
    """float64 throughout; bfloat16 autocast stays near float32, with a float32 loss."""
    points, lengths = tracks(LENGTHS)
    assert PointMAE(CONFIG).double()(points.double(), lengths).energy.dtype == torch.float64
    model = PointMAE(CONFIG).eval()
    masked = random_mask(model.encoder.tokenize(points, lengths).lengths, 0.6)
    plain = losses(model(points, lengths, masked))
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses(model(points, lengths, masked))
    loss.backward()
    assert loss.dtype == torch.float32 and float((loss - plain).detach().abs()) < 0.05 * float(plain.detach())


def test_bad_input():
    model, (points, lengths) = PointMAE(CONFIG), tracks([50])
    with pytest.raises(ValueError, match=r"masked: expected .* bool"):
        model(points, lengths, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"points: expected \(P, 4\)"):
        model(points[:, :3], lengths)
    with pytest.raises(ValueError, match="encoder's width 192"):
        replace(CONFIG, published_decoder=TransformerConfig("vit_small"))
    for ratio in (60, 0, 1, float("nan")):  # with 0 there is nothing to learn, with 1 nothing to learn it from
        with pytest.raises(ValueError, match="mask_ratio"):
            replace(CONFIG, mask_ratio=ratio)
