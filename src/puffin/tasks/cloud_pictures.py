"""Pictures of events with the predictions of a pretrained network or of a segmentation network."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puffin.data.pilarnet import CloudDataset, energy_of, normalize_coordinates
from puffin.layers.grouping import Tokens
from puffin.layers.packed import unpad
from puffin.layers.voxels import voxel_coordinates
from puffin.models.point_mae import PointMAE
from puffin.models.segmentation import SegmentationNetwork
from puffin.models.voxel_distillation import VoxelDistillation
from puffin.models.voxel_mae import VoxelMAE, VoxelReconstruction
from puffin.plots.clouds import (
    Page,
    by_class,
    by_embedding,
    by_energy,
    by_error,
    by_token,
    draw_page,
    draw_side_by_side,
    energies,
    reconstruction,
    write_html,
)
from puffin.plots.style import draw_to
from puffin.tasks.masked_modelling import fixed_mask

# pictures of two pages side by side
PAIRS = {"reconstruction": ("truth", "predicted"), "energies": ("true_energy", "predicted_energy")}


@torch.no_grad()
def event_pages(
    model: PointMAE | VoxelMAE | VoxelDistillation, dataset: CloudDataset, number: int, seed: int
) -> dict[str, Page]:
    """Make the pages of an event by name: its points and, if anything is masked, the reconstruction.

    A network that predicts energies has pages with the true and the predicted ones; a teacher has its features.

    The mask is the one of the validation. The model keeps its mode, and no random numbers are drawn."""
    weight = next(model.parameters())
    batch = dataset[number].to(weight.device, weight.dtype)
    title = f"Event {number}, {len(batch.points)} points"
    if not len(batch.points):
        return {}
    was_training = model.training
    model.eval()
    try:
        points, in_mev = (
            _array(batch.points),
            partial(energy_of, eps=dataset.selection.eps, emax=dataset.selection.emax),
        )
        pages = {
            "energy": by_energy(points, in_mev(points[:, 3]), title),
            "class": by_class(points, _array(batch.semantic), title),
        }
        if isinstance(model, VoxelDistillation):
            features = model.features(batch.points, batch.lengths)
            return pages | {"embedding": by_embedding(points[:, :3], _array(features), title, "points", 3)}
        parts = model.parts(batch.points, batch.lengths)
        masked = fixed_mask(parts.lengths, model.config.mask_ratio, seed, batch.index)
        if isinstance(model, VoxelMAE):
            return pages | (_voxel_pages(model.reconstruct(parts, masked), in_mev, title) if masked.any() else {})
        members = [_array(m) for m in parts.index.split(parts.counts.tolist())]
        pages["tokens"] = by_token(points, members, _array(parts.centres), title)
        return pages | (_token_pages(model, batch.points, parts, masked, in_mev, title) if masked.any() else {})
    finally:
        model.train(was_training)


def _token_pages(
    model: PointMAE, points: Tensor, tokens: Tokens, masked: Tensor, in_mev: Callable, title: str
) -> dict[str, Page]:
    """Make the pages of the reconstruction of tokens, and of their embeddings."""
    result, radius = model.reconstruct(tokens, masked), model.config.encoder.tokens.radius
    hidden = result.hidden
    centre = hidden.centres.repeat_interleave(hidden.counts.to(hidden.centres.device), 0)
    true = hidden.groups[:, :3] * radius + centre
    predicted = unpad(result.points, hidden.counts)[:, :3] * radius + centre
    visible = _array(points[tokens.select(~masked).index.unique(), :3])
    pages = _pair("truth", "predicted", reconstruction(visible, _array(true), _array(predicted), title))
    if result.energy is not None:
        rows = _array(torch.cat([true, in_mev(hidden.groups[:, 3:4])], 1))
        guess = _array(in_mev(unpad(result.energy, hidden.counts)))
        pages |= _pair("true_energy", "predicted_energy", energies(visible, rows, guess, title))
    pages["embedding"] = by_embedding(_array(tokens.centres), _array(model.encoder.encode(tokens)), title)
    return pages


def _voxel_pages(result: VoxelReconstruction, in_mev: Callable, title: str) -> dict[str, Page]:
    """Make the pages of the reconstruction of voxels; a voxel is predicted if its probability is above one half."""
    points, voxels = result.blocks.points, result.voxels
    xyz, visible = voxels.mean(points[:, :3]), _array(result.blocks.select(~result.masked).points[:, :3])
    true, logits = xyz[result.hidden[0]], result.occupancy[0]
    some_child = voxels.pyramid.coarser[0].forward[result.hidden[1]].amax(1)
    octants = torch.tensor(list(product((0, 1), repeat=3)), device=xyz.device)
    children = (voxel_coordinates(xyz[some_child]) // 2 * 2)[:, None] + octants
    predicted = normalize_coordinates(children[logits > 0].to(xyz.dtype))
    pages = _pair("truth", "predicted", reconstruction(visible, _array(true), _array(predicted), title))
    rows = _array(torch.cat([true, in_mev(result.true_energy)[:, None]], 1))
    both = energies(visible, rows, _array(in_mev(result.energy)), title)
    return pages | _pair("true_energy", "predicted_energy", both)


def _pair(first: str, second: str, pages: list[Page]) -> dict[str, Page]:
    return dict(zip((first, second), pages, strict=True))


def draw_events(
    folder: Path,
    stem: str,
    model: PointMAE | VoxelMAE | VoxelDistillation,
    dataset: CloudDataset,
    numbers: Iterable[int],
    seed: int,
    html: bool,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw events to FOLDER/STEM.event<k>.<page>.png, and with html to one .html file per event; returns the files.

    Truth and prediction are side by side in one picture, as PAIRS says."""
    written = []
    for number in numbers:
        pages = event_pages(model, dataset, number, seed)
        in_pairs = {page for pair in PAIRS.values() for page in pair}
        for name, page in pages.items():
            if name not in in_pairs:
                picture = folder / f"{stem}.event{number}.{name}.png"
                written += draw_to(picture, formats, partial(draw_page, page=page))
        for name, pair in PAIRS.items():
            if pair[0] in pages:
                picture = folder / f"{stem}.event{number}.{name}.png"
                title, *_ = pages[pair[0]].title.split(": ")
                both = [replace(pages[page], title=pages[page].title.removeprefix(f"{title}: ")) for page in pair]
                written += draw_to(picture, formats, partial(draw_side_by_side, title=title, pages=both))
        if html and pages:
            written.append(folder / f"{stem}.event{number}.html")
            write_html(written[-1], list(pages.values()))
    return written


@torch.no_grad()
def label_pages(model: SegmentationNetwork, dataset: CloudDataset, number: int) -> list[Page]:
    """Make the pages true classes, predicted classes and errors of an event; no pages for an event without points.

    The model keeps its mode."""
    weight = next(model.head.parameters())
    batch = dataset[number].to(weight.device, weight.dtype)
    if not len(batch.points):
        return []
    was_training = model.training
    model.eval()
    try:
        predicted = _array(model(batch.points, batch.lengths).logits.argmax(1))
    finally:
        model.train(was_training)
    points, true = _array(batch.points), _array(batch.semantic)
    return [
        replace(by_class(points, true, ""), title="true classes"),
        replace(by_class(points, predicted, ""), title="predicted classes"),
        replace(by_error(points, true, predicted, ""), title="errors, coloured by the true class"),
    ]


def draw_labels(
    folder: Path,
    stem: str,
    model: SegmentationNetwork,
    dataset: CloudDataset,
    numbers: Iterable[int],
    seed: int,
    html: bool,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw the classes of events to FOLDER/STEM.event<k>.classes.png, and with html to .html; returns the files.

    seed is not used, as there is no mask; `draw_events` has the same parameters."""
    written = []
    for number in numbers:
        pages = label_pages(model, dataset, number)
        if not pages:
            continue
        points = sum(len(layer.points) for layer in pages[0].layers)
        draw = partial(draw_side_by_side, title=f"Event {number}, {points} points", pages=pages)
        written += draw_to(folder / f"{stem}.event{number}.classes.png", formats, draw)
        if html:
            written.append(folder / f"{stem}.event{number}.html")
            write_html(written[-1], pages)
    return written


def _array(x: Tensor) -> np.ndarray:
    return (x.float() if x.is_floating_point() else x).cpu().numpy()
