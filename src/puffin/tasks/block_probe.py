"""Probes of a PELICAN network: how well observables of jets can be read from each of its blocks.

Source: Alain and Bengio, arXiv 1610.01644.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from puffin.data.packing import JetBatch
from puffin.layers.pair_geometry import PairGeometry
from puffin.metrics.probe import ridge_probe
from puffin.models.pelican import PelicanBackbone


def probe_blocks(model: PelicanBackbone, batches: Iterable[JetBatch], values: np.ndarray) -> np.ndarray:
    """Compute R^2 (1 + blocks, K) of linear regressions on the input of the first block and the output of each block.

    The model must be in evaluation mode. values (J, K): observables of all J jets of the batches, which the network has
    not been trained on; the regressions are fitted to the first half of the jets, and judged on the others."""
    of_blocks = zip(*(block_features(model, batch) for batch in batches), strict=True)
    half = len(values) // 2
    features = (torch.cat(parts).double().cpu().numpy() for parts in of_blocks)
    return np.stack([ridge_probe(x[:half], values[:half], x[half:], values[half:]) for x in features])


@torch.no_grad()
def block_features(model: PelicanBackbone, batch: JetBatch) -> list[Tensor]:
    """Compute features (B, 2 C) of the jets: means over the pairs, then over the diagonal pairs, in each channel.

    Their sums are what the read-out of a classifier gets. First those of the input of the first block, then those of
    the output of each block."""
    x, geometry, _ = model.embed(batch)
    return [_means(pairs, geometry) for pairs in (x, *model.net2to2.outputs(x, geometry))]


def _means(x: Tensor, geometry: PairGeometry) -> Tensor:
    _, (diagonal, rows, *_) = geometry.sums(x)
    size = geometry.reduce_nodes(torch.ones_like(diagonal[:, :1]), "sum").clamp_min(torch.finfo(x.dtype).tiny)
    return torch.cat([geometry.reduce_nodes(rows, "sum") / size**2, geometry.reduce_nodes(diagonal, "sum") / size], 1)
