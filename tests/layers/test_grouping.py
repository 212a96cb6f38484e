"""Tokens against golden vectors and a brute-force oracle."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from puffin.layers.grouping import tokenize
from puffin.layers.packed import unpad
from puffin.ops.cnms import centrality_nms
from puffin.settings.encoder import TOKENIZERS, VOXEL, TokenizerConfig
from tests.conftest import golden_files
from tests.layers.clouds import tracks

CONFIG = TokenizerConfig(group_size=8).complete()
KINDS = {
    "volumetric": CONFIG,
    "energy": replace(CONFIG, reduction="energy"),
    "seeds": replace(CONFIG, seeds=20, mean_centres=True),
    "point-mae": replace(CONFIG, centres="fps", neighbours="knn", context=16),
    "fps and ball": replace(CONFIG, centres="fps", context=16),
}


@pytest.mark.parametrize("path", golden_files("polarmae", "grouping.npz"))
@pytest.mark.parametrize("name", ["volumetric_5voxel", "energy_reduction"])
def test_golden(path, name):
    """Order of tokens, order and values of their points, labels: all exact."""
    with np.load(path) as file:
        z = {key: file[key] for key in file.files}
    c = json.loads(str(z[f"{name}/config"]))
    wanted = ("groups", "group_centers", "embedding_mask", "point_mask", "semantic_id_groups")
    expected = {key: torch.from_numpy(z[f"{name}/{key}"]) for key in wanted}
    config = TokenizerConfig(
        c["group_radius"],
        c["context_length"],
        c["group_max_points"],
        c["group_upscale_points"],
        c["overlap_factor"],
        reduction=c["reduction_method"],
    )
    lengths, labels = torch.from_numpy(z["lengths"]), torch.from_numpy(z["semantic_id"])
    tokens = tokenize(unpad(torch.from_numpy(z["points"]), lengths), lengths, config)
    valid = expected["embedding_mask"]
    points = expected["point_mask"][valid]
    assert torch.equal(tokens.lengths, valid.sum(1)) and torch.equal(tokens.counts, points.sum(1))
    assert torch.equal(tokens.centres, expected["group_centers"][valid])
    assert torch.equal(tokens.groups, expected["groups"][valid][points])
    assert torch.equal(unpad(labels, lengths)[tokens.index], expected["semantic_id_groups"][valid][points])
    assert tokens.dropped.sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_what_they_say(kind):
    """Features follow from index and centre; sizes stay within their bounds; a group has no point twice."""
    config = KINDS[kind]
    points, lengths = tracks([200, 0, 1, 90])
    tokens = tokenize(points, lengths, config)
    assert 1 <= tokens.counts.min() and tokens.counts.max() <= config.group_size
    assert tokens.lengths.max() <= config.context
    assert tokens.lengths[1] == 0 and tokens.lengths[2] == 1
    assert int(tokens.counts.sum()) == len(tokens.groups) and int(tokens.lengths.sum()) == len(tokens)
    token = torch.repeat_interleave(tokens.counts)
    moved = (points[tokens.index, :3] - tokens.centres[token]) / config.radius
    assert torch.equal(tokens.groups, torch.cat([moved, points[tokens.index, 3:]], 1))
    assert len(set(zip(token.tolist(), tokens.index.tolist(), strict=False))) == len(token)
    event = torch.repeat_interleave(lengths)[tokens.index]
    assert torch.equal(event, torch.repeat_interleave(tokens.lengths)[token])
    if config.neighbours == "ball" and not config.mean_centres:
        assert moved.norm(dim=1).max() < 1 + 1e-6


def test_every_point_has_a_token():
    """With C-NMS at f = 0.5 and room for all, balls of the radius cover the cloud."""
    points, lengths = tracks([700, 300])
    tokens = tokenize(points, lengths, TokenizerConfig(group_size=256, overlap=0.49))
    assert len(tokens.index.unique()) == len(points)


def test_highest_energies():
    """Oracle: sort each ball's energies."""
    points, lengths = tracks([150])
    points[10:20, 3] = 0.5  # ties go to the first
    tokens = tokenize(points, lengths, KINDS["energy"])
    for group, centre in zip(tokens.index.split(tokens.counts.tolist()), tokens.centres, strict=False):
        ball = ((points[:, :3] - centre).square().sum(1) < CONFIG.radius**2).nonzero()[:, 0].tolist()
        assert group.tolist() == sorted(ball, key=lambda i: -float(points[i, 3]))[:8]


def test_nearest_neighbours():
    """Point-MAE's tokens: farthest points first, each with its nearest points."""
    points, lengths = tracks([150, 5])
    tokens = tokenize(points, lengths, KINDS["point-mae"])
    assert tokens.lengths.tolist() == [16, 5] and tokens.counts.tolist() == [8] * 16 + [5] * 5
    assert torch.equal(tokens.centres[0], points[0, :3])
    for group, centre in zip(tokens.index.split(tokens.counts.tolist())[:16], tokens.centres, strict=False):
        distance = (points[:150, :3] - centre).square().sum(1)
        assert torch.equal(distance[group], distance.sort().values[:8])


def test_means_of_seeded_centres():
    points, lengths = tracks([200])
    tokens = tokenize(points, lengths, KINDS["seeds"])
    sums = torch.stack([g[:, :3].mean(0) for g in tokens.groups.split(tokens.counts.tolist())])
    assert sums.abs().max() < 1e-4
    assert len(tokens) <= 20


def test_too_many_tokens():
    """The first tokens remain, in the order of the event, and the dropped ones are counted."""
    points, lengths = tracks([400, 10, 300])
    whole = tokenize(points, lengths, CONFIG)
    cut = tokenize(points, lengths, replace(CONFIG, context=7))
    assert cut.lengths.max() == 7
    assert torch.equal(cut.dropped, whole.lengths - cut.lengths) and cut.dropped[0] > 0
    first = torch.cat([torch.arange(n) < 7 for n in whole.lengths.tolist()])
    assert torch.equal(whole.select(first).groups, cut.groups)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [1, 0, 1]])
def test_hardly_any_points(kind, lengths):
    points, lengths = tracks(lengths)
    tokens = tokenize(points, lengths, KINDS[kind])
    assert torch.equal(tokens.lengths, lengths) and tokens.counts.tolist() == [1] * len(points)
    assert tokens.groups.shape == (len(points), 4)


@pytest.mark.parametrize("kind", KINDS)
def test_event_alone_equals_event_in_batch(kind):
    points, lengths = tracks([120, 300, 40])
    together = tokenize(points, lengths, KINDS[kind])
    second = torch.repeat_interleave(torch.arange(3), together.lengths) == 1
    alone = tokenize(points[120:420], lengths[1:2], KINDS[kind])
    picked = together.select(second)
    assert torch.equal(alone.groups, picked.groups) and torch.equal(alone.index + 120, picked.index)
    assert torch.equal(alone.centres, picked.centres) and picked.lengths.tolist() == [0, len(alone), 0]


def test_presets():
    """The published settings; the radius of 5 voxels is the one stored in published checkpoints."""
    assert abs(TokenizerConfig().complete().radius - 0.007517581630073253) < 1e-15
    coarse, fine = TokenizerConfig(voxels="25").complete(), TokenizerConfig(voxels="2.5").complete()
    assert coarse.seeds == 256 and coarse.group_size == 128 and fine.context == 1024
    points, lengths = tracks([3000])
    for voxels in TOKENIZERS:
        config = TokenizerConfig(voxels=voxels).complete()
        tokens = tokenize(points, lengths, config)
        num_centres = centrality_nms(points[None], None, config.radius, config.overlap).lengths
        assert 1 <= len(tokens) and (config.seeds or len(tokens) == min(int(num_centres), config.context))
    assert VOXEL == pytest.approx(2 / 768 / 3**0.5)


@pytest.mark.parametrize(
    "name, value",
    [
        ("centres", "grid"),
        ("reduction", "none"),
        ("radius", 0.0),
        ("radius", np.nan),
        ("radius", 1e-30),
        ("radius", 5.0),
        ("upscale", 4),
        ("context", 0),
        ("overlap", -1.0),
        ("overlap", 0.0),
        ("overlap", np.inf),
        ("overlap", np.nan),
        ("seeds", -5),
    ],
)
def test_bad_settings(name, value):
    """What would fail at the first batch, or put all points into one token, is named at once."""
    with pytest.raises(ValueError, match=f"{name}: expected"):
        replace(CONFIG, **{name: value})
