"""What networks look at: in jets relevances of particles and pairs, or the weights of a regressor; for events see
tokens.py."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from puffin.checkpoints.checkpoint import AUTOENCODER, CLASSIFIER, SEGMENTATION, Checkpoint
from puffin.checkpoints.networks import network_of_checkpoint, settings_of_checkpoint
from puffin.data.class_names import class_names
from puffin.data.jets import JetDataset, JetSelection, open_splits
from puffin.data.targets import ClassLabels
from puffin.errors import InputError
from puffin.models.pelican import PelicanBackbone, PelicanRegressor
from puffin.plots.jet_view import draw_jet
from puffin.plots.style import class_name
from puffin.report.blocks import Figure, Note, Section, Table, View, embed, new_figure
from puffin.report.collect import Run, by_method
from puffin.report.probes import probes
from puffin.report.tokens import token_blocks
from puffin.tasks.relevance import relevance

_JETS = 4


def looked_at(runs: Sequence[Run]) -> list[Section]:
    """Show jets or events as the first seed of each method sees them; methods without a checkpoint are left out."""
    section = Section("What the network looks at")
    for method, (first, *_) in by_method(runs).items():
        if first.checkpoint is None:
            continue
        try:
            section.blocks += _blocks(method, first.checkpoint, first.checkpoint.stat().st_mtime_ns)
        except (InputError, OSError) as error:
            section.blocks.append(Note(f"Not shown for {method}: {error}"))
    return [section] if section.blocks else []


@lru_cache(maxsize=16)
def _blocks(method: str, path: Path, written: int) -> Sequence[View | Figure | Table | Note]:
    """Draw jets of one network, and probe it. InputError if its jets or events are not there any more.

    written: when the checkpoint was written; --watch computes all this again only for a new one."""
    checkpoint = Checkpoint.read(path)
    settings, network = settings_of_checkpoint(checkpoint), network_of_checkpoint(checkpoint)
    if checkpoint.network in (AUTOENCODER, SEGMENTATION):
        return token_blocks(method, checkpoint, network)
    network.to(torch.float64 if settings.machine.dtype == "double" else torch.float32)
    classifies = checkpoint.network == CLASSIFIER
    jets = _test_jets(settings, classifies)
    return _figures(method, settings, network, jets, classifies) + probes(method, network, jets)


def _figures(method: str, settings, network: PelicanBackbone, jets: JetDataset, classifies: bool) -> list[Figure]:
    """Draw a few jets of each class."""
    labels = jets.labels() if classifies else torch.zeros(len(jets), dtype=torch.int64)
    classes = settings.network.num_classes if classifies else 1
    names = class_names(jets.files, settings.data.target, classes) if classifies else ()
    each = -(-_JETS // classes)
    numbers = [int(k) for c in range(classes) for k in (labels == c).nonzero().flatten()[:each]]
    figures = []
    for number in numbers:
        jet, figure = jets.__getitems__([number]).to("cpu", next(network.parameters()).dtype), new_figure()
        momenta = (jet.fourmomenta / settings.data.scale).numpy()
        if isinstance(network, PelicanRegressor):
            with torch.no_grad():
                weights = network(jet).weights[len(network.config.spurions) :, 0].mean(1)
            draw_jet(figure.subplots(), momenta, weights.numpy(), "weight in the predicted momentum")
            figures.append(
                embed(figure, f"{method}, test jet {number}: weights of the particles; areas follow the pT.")
            )
            continue
        true, target = int(labels[number]), 1 if classes == 2 else int(labels[number])
        found = relevance(network, jet, lambda logits, target=target: _log_odds(logits, target))
        name = class_name(target, names)
        arrays = (found.particles.numpy(), f"relevance for {name}", found.pairs.numpy(), found.of_pairs.numpy())
        draw_jet(figure.subplots(), momenta, *arrays)
        text = (
            f"{method}, test jet {number} ({class_name(true, names)}): relevance of particles and of the largest pairs"
        )
        figures.append(embed(figure, f"{text} for the log odds of {name}; red raises them. Areas follow the pT."))
    return figures


def _test_jets(settings, classifies: bool) -> JetDataset:
    """Open the test jets of a training, prepared like its training jets."""
    data = settings.data
    target = ClassLabels(data.target) if classifies else None
    selection = JetSelection.of(data, target, in_memory=False)
    found = open_splits(data.datadir, selection, {"test": -1}, settings.run.seed, data.testfile)
    if "test" not in found:
        raise InputError(f"{data.datadir}: no test jets")
    return found["test"]


def _log_odds(logits: Tensor, target: int) -> Tensor:
    """Compute the logarithm of p / (1 - p) for the probability p of a class, from the scores (1, K) of one jet."""
    others = torch.cat([logits[0, :target], logits[0, target + 1 :]])
    return logits[0, target] - others.logsumexp(0)
