"""Pictures of events: which points are drawn, and how."""

import numpy as np
import pytest
import torch

from puffin.data.pilarnet import CloudDataset, CloudSelection, energy_of, normalize_energy
from puffin.errors import InputError
from puffin.models.voxel_distillation import VoxelDistillation
from puffin.plots.clouds import (
    CM,
    Layer,
    Page,
    _extent,
    _longest_axes,
    by_attention,
    by_class,
    by_energy,
    by_error,
    by_token,
    draw_page,
    draw_side_by_side,
    draw_tokens,
    principal_colours,
    write_html,
)
from puffin.plots.style import CLASS_COLOURS, page
from puffin.tasks.cloud_pictures import _voxel_pages, draw_events, event_pages
from tests.conftest import ROOT
from tests.models.test_voxel_distillation import CONFIG
from tests.tasks.test_masked_modelling import make_task


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(-0.3, 0.3, (40, 4))


def test_centimetres():
    """The detector's edge, 768 voxels of 3 mm, is 230.4 cm. Breaks with another unit."""
    edge = np.array([[-1, 0, 0], [1, 0, 0]]) / 3**0.5
    centre, half = _extent([Page("", [Layer(edge)])])
    assert np.ptp(edge[:, 0]) * CM == pytest.approx(230.4) and half > 115.2 and centre == pytest.approx([0, 0, 0])


def test_attention_of_a_token(points):
    """A point has the largest attention of its tokens, in units of an even one; the token itself has its own layer."""
    members = [np.arange(5), np.arange(5, 20), np.arange(15, 30)]
    free, others, own = by_attention(points, members, np.array([0.2, 0.5, 0.3]), 0, "").layers
    assert np.array_equal(own.points, points[:5, :3]) and len(free.points) == 10
    assert others.colour == pytest.approx([1.5] * 15 + [0.9] * 10)


def test_tokens_side_by_side():
    """Lines in any direction, of one point too, are drawn along the first axis, in cm, with one scale for all."""
    line, track = np.outer(np.arange(4.0), [1, 2, 2]) / 3 / CM, np.array([1, 1, 1, 2])
    figure, axes = page(3)
    draw_tokens(axes.flat, [(line, track, "a"), (line[:2], track[:2], "b"), (line[:1], 0 * track[:1], "c")])
    shown = np.abs([point for drawn in axes.flat[0].collections for point in drawn.get_offsets().tolist()])
    assert shown == pytest.approx(np.array([[1.5, 0], [0.5, 0], [0.5, 0], [1.5, 0]]))
    assert all(panel.get_xlim() == pytest.approx((-1.575, 1.575)) for panel in axes.flat)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["track", "michel", "shower"]


def test_energies_come_back():
    """Breaks if the energies in the picture [MeV] are not those of the file."""
    energies = np.array([0.14, 1.0, 19.0])
    assert energy_of(normalize_energy(energies, 0.13, 20.0), 0.13, 20.0) == pytest.approx(energies)


def test_layers(points):
    """Every point is in one layer, the rarest class in front. Points in no token have a layer of their own."""
    semantic = np.repeat([0, 1, 2], [20, 15, 5])
    layers = by_class(points, semantic, "").layers
    assert [layer.name for layer in layers] == ["shower (20)", "track (15)", "michel (5)"]
    assert np.array_equal(np.concatenate([layer.points for layer in layers]), points[:, :3])
    free, own, centres = by_token(points, [np.arange(10), np.arange(10, 25)], points[:2, :3], "").layers
    assert (len(free.points), len(own.points), len(centres.points)) == (15, 25, 2)
    assert len(np.unique(own.colour, axis=0)) == 2 and (own.colour[:10] == own.colour[0]).all()
    colours = by_energy(points, points[:, 3], "").layers[0].colour
    assert colours.min() >= np.percentile(points[:, 3], 2) and colours.max() < points[:, 3].max()


def test_principal_colours():
    """Two clusters get different colours. Fewer features than colours, or constant features, do not fail."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 30)) + np.repeat([[0.0], [50.0]], 50, 0)
    colours = principal_colours(features)
    assert abs(colours[:50, 0].mean() - colours[50:, 0].mean()) > 0.9
    assert (
        principal_colours(features[:, :1]).shape == (100, 3) and np.isfinite(principal_colours(np.ones((3, 4)))).all()
    )


def test_draws_an_event(tmp_path):
    """All pages of a real event can be drawn; masked and visible points add up to the tokens.

    Drawing does not change the model's mode or the random state."""
    model = make_task().model.train()
    files = sorted((ROOT / "data/sample_data/lartpc/val").glob("*.h5"))
    dataset = CloudDataset(files, CloudSelection())
    state = torch.get_rng_state()
    pages = event_pages(model, dataset, 2, seed=1)
    assert list(pages) == [
        "energy",
        "class",
        "tokens",
        "truth",
        "predicted",
        "true_energy",
        "predicted_energy",
        "embedding",
    ]
    assert len(pages["energy"].layers[0].points) == sum(len(layer.points) for layer in pages["class"].layers)
    truth, predicted = pages["truth"].layers[1].points, pages["predicted"].layers[1].points
    everything = {tuple(p) for p in np.round(pages["energy"].layers[0].points * 1e4)}
    assert truth.shape == predicted.shape and {tuple(p) for p in np.round(truth * 1e4)} <= everything
    assert model.training and torch.equal(state, torch.get_rng_state())
    dataset.restrict(torch.tensor([2]))
    written = draw_events(tmp_path, "x", model, dataset, [0], 1, html=False)
    assert len(written) == 6 and all(path.stat().st_size > 10_000 for path in written)
    assert written[0].name == "x.event0.energy.png"


@torch.no_grad()
def test_draws_an_event_of_voxels(tmp_path):
    """Predicted voxels are octants of hidden ones; with perfect logits they are the true ones."""
    model = make_task("unet").model
    dataset = CloudDataset(sorted((ROOT / "data/sample_data/lartpc/val").glob("*.h5")), CloudSelection())
    pages = event_pages(model, dataset, 2, seed=1)
    assert list(pages) == ["energy", "class", "truth", "predicted", "true_energy", "predicted_energy"]
    visible, true = (layer.points for layer in pages["truth"].layers)
    assert len(visible) + len(true) == len(pages["energy"].layers[0].points)

    batch = dataset[2]
    result = model(batch.points, batch.lengths)
    perfect = [torch.where(result.occupied(k), 1.0, -1.0) for k in range(len(result.occupancy))]
    pages = _voxel_pages(result._replace(occupancy=perfect), lambda energy: energy, "E")
    true, predicted = (
        {tuple(p) for p in np.round(pages[name].layers[1].points * 1e4)} for name in ("truth", "predicted")
    )
    assert true == predicted
    written = draw_events(tmp_path, "x", model, dataset, [2], 1, html=False)
    assert len(written) == 4 and all(path.stat().st_size > 10_000 for path in written)


def test_draws_the_features_of_a_teacher(tmp_path):
    """Each point of the event has the colour of its features."""
    dataset = CloudDataset(sorted((ROOT / "data/sample_data/lartpc/val").glob("*.h5")), CloudSelection())
    model = VoxelDistillation(CONFIG)
    pages = event_pages(model, dataset, 2, seed=1)
    assert list(pages) == ["energy", "class", "embedding"] and "of the points" in pages["embedding"].title
    assert pages["embedding"].layers[0].colour.shape == pages["energy"].layers[0].points.shape
    assert len(draw_events(tmp_path, "x", model, dataset, [2], 1, html=False)) == 3


def test_errors_and_pages_side_by_side(points, tmp_path):
    """Every point is drawn once: correct, or missed in the colour of its true class.

    A picture can have three pages, one of them empty."""
    true, predicted = np.arange(40) % 4, np.zeros(40, int)
    page = by_error(points, true, predicted, "E")
    assert [layer.name for layer in page.layers] == [
        "correct (10)",
        "track missed (10)",
        "michel missed (10)",
        "delta missed (10)",
    ]
    assert [layer.colour for layer in page.layers[1:]] == list(CLASS_COLOURS[1:4])
    flat = points * np.array([1, 0.01, 1, 1])
    assert _longest_axes([by_class(flat, true, "")]) == [0, 2]
    draw_side_by_side(tmp_path / "e.png", "event", [by_class(points, true, "true"), page, Page("empty", [])])
    assert (tmp_path / "e.png").stat().st_size > 10_000


def test_html(points, tmp_path, monkeypatch):
    """A menu entry for each page; without plotly a message that says how to install it."""
    pages = [by_energy(points, points[:, 3], "A"), by_class(points, np.zeros(40, int), "B")]
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(InputError, match="pip install plotly"):
            write_html(tmp_path / "e.html", pages)
    pytest.importorskip("plotly", reason="the extra 'plots' is not installed")
    write_html(tmp_path / "e.html", pages)
    text = (tmp_path / "e.html").read_text()
    assert "A: energy" in text and "B: class" in text and "x [cm]" in text


def test_empty_page(tmp_path):
    """A page without layers can be drawn."""
    draw_page(tmp_path / "e.png", Page("empty", []))
    assert (tmp_path / "e.png").exists()
