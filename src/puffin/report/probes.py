"""How well observables can be read from the blocks of a jet network, beside a network with random weights."""

from collections.abc import Sequence

import numpy as np
import torch

from puffin.data.jet_observables import subjettiness
from puffin.data.jets import JetDataset
from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.losses.momenta import mass, transverse_momentum
from puffin.metrics.probe import ridge_probe
from puffin.models.pelican import PelicanBackbone
from puffin.plots.comparison import draw_probes
from puffin.report.blocks import Figure, Note, Table, embed, new_figure
from puffin.tasks.block_probe import probe_blocks

_JETS = 1000  # half of them for the regressions, half to judge them
_FEWEST = 100
_TOGETHER = 50
_RATIOS = {"tau21": "tau21_1", "tau32": "tau32_1"}


def probes(method: str, network: PelicanBackbone, jets: JetDataset) -> list[Figure | Table | Note]:
    """Probe a network on random test jets, also with random weights; [] with fewer than _FEWEST jets."""
    batches = _batches(jets, next(network.parameters()).dtype)
    if sum(map(len, batches)) < _FEWEST:
        return []
    lengths = torch.cat([batch.lengths for batch in batches]).numpy()
    values, notes = _observables(batches, lengths, jets.selection.scale)
    columns, names = np.stack(list(values.values()), 1), list(values)
    trained, random = (probe_blocks(each, batches, columns) for each in (network, _untrained(network, batches)))
    half, number = len(lengths) // 2, lengths[:, None].astype(float)
    trivial = ridge_probe(number[:half], columns[:half], number[half:], columns[half:])
    rows = [["number of particles", *_texts(trivial)]]
    for stage, pair in zip(_stages(trained), zip(trained, random, strict=True), strict=True):
        rows += [
            [f"{stage}{label}", *_texts(found)] for label, found in zip(("", ", random weights"), pair, strict=True)
        ]
    figure = new_figure(height=4.8)
    draw_probes(figure.subplots(2, 2, sharex=True, sharey=True).flat, names, trained, random, trivial)
    text = f"{method}: how well a linear regression reads observables from each block (0: the input of the blocks)."
    judged = (
        f"R² on {len(lengths) - half} test jets, of regressions fitted to {half} others; 1 is a perfect prediction."
    )
    return [embed(figure, f"{text} {judged}"), Table(["features", *names], rows, f"{method}: {judged}"), *notes]


def _batches(jets: JetDataset, dtype: torch.dtype) -> list[JetBatch]:
    """Read random jets that have particles."""
    order = torch.randperm(len(jets), generator=torch.Generator().manual_seed(0))[:_JETS]
    read = jets.__getitems__(order.tolist()).to("cpu", dtype)
    filled = JetBatch(read.fourmomenta, read.lengths[read.lengths > 0], scalars=read.scalars)
    return [filled.part(start, start + _TOGETHER) for start in range(0, len(filled), _TOGETHER)]


def _observables(
    batches: Sequence[JetBatch], lengths: np.ndarray, scale: float
) -> tuple[dict[str, np.ndarray], list[Note]]:
    """Compute mass, pT and ratios of N-subjettiness (J,) of the particles in use; without FastJet a note instead."""
    particles = torch.cat([batch.fourmomenta for batch in batches]).double() / scale
    jets = torch.segment_reduce(particles, "sum", lengths=torch.from_numpy(lengths))
    values = {"mass": mass(jets).numpy(), "pT": transverse_momentum(jets).numpy()}
    try:
        found = subjettiness(particles.numpy(), lengths)
    except InputError as error:
        return values, [Note(f"N-subjettiness is left out: {error}")]
    return values | {name: found[key] for name, key in _RATIOS.items()}, []


@torch.no_grad()
def _untrained(network: PelicanBackbone, batches: Sequence[JetBatch]) -> PelicanBackbone:
    """Return a network of the same shape with random weights, whose batch normalisation has the jets' statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random = type(network)(network.config).to(next(network.parameters()).dtype).train()
        for batch in batches:
            random(batch)
    return random.eval()


def _stages(found: np.ndarray) -> list[str]:
    return ["input", *(f"block {k}" for k in range(1, len(found)))]


def _texts(found: np.ndarray) -> list[str]:
    return [f"{value:.3f}" for value in found]
