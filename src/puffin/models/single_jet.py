"""A trained PELICAN network for one jet at a time, in plain tensor operations, for export.

Training works on packed batches, through kernels and index tables.  Here the same layers run on `DensePairs`, which an
exporter can trace for any number of particles.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.errors import InputError
from puffin.layers.dense_pairs import DensePairs
from puffin.models.pelican import Embedded, PelicanBackbone, PelicanClassifier, PelicanRegressor


class SingleJet(nn.Module):
    """A copy of a trained network, in eval mode, that takes one jet.  The heads are subclasses.

    scale: factor by which momenta are multiplied first (--scale of the training, if the momenta are in GeV).
    Raises InputError for networks that need the soft-drop multiplicity.
    """

    outputs: tuple[str, str]  # their names

    def __init__(self, model: PelicanBackbone, scale: float = 1.0):
        super().__init__()
        config = model.config
        if config.irc_safe and set(config.config + config.config_out) != {"s"}:
            raise InputError(
                f"config {config.config!r}, config_out {config.config_out!r}: an irc_safe network with letters other "
                "than 's' uses the soft-drop multiplicity, which clusters particle by particle and cannot be exported; "
                "train it with the letter s alone"
            )
        if config.num_observables:
            raise InputError(
                "observables: FastJet computes them, which cannot be exported; train the network without --observables"
            )
        self.scale = scale
        self.network = copy.deepcopy(model)
        self.eval()

    def through_blocks(self, p: Tensor, scalars: Tensor | None) -> Embedded:
        """Run the blocks on the jet p (n, 4), scalars (n, S) or None: features (n', n', C), spurions first."""
        if self.scale != 1:
            p = p * self.scale
        if self.network.config.spurions:
            p, scalars = _prepend_spurions(p, scalars, self.network.config.spurions)
        return self.network.run_blocks(self.network.embed_nodes(p, scalars, DensePairs.of(p)))


def _prepend_spurions(p: Tensor, scalars: Tensor | None, spurions: tuple) -> tuple[Tensor, Tensor]:
    """Put the spurions before the particles: momenta (n', 4), scalars with one-hot labels (see `prepend_spurions`)."""
    labels = F.pad(torch.ones_like(p[:, :1]), (0, len(spurions)))
    of_spurions = torch.eye(1 + len(spurions), dtype=p.dtype, device=p.device)[1:]
    if scalars is not None:
        labels, of_spurions = torch.cat([scalars, labels], 1), F.pad(of_spurions, (scalars.shape[1], 0))
    return torch.cat([p.new_tensor(spurions), p]), torch.cat([of_spurions, labels])


class SingleJetClassifier(SingleJet):
    """Map fourmomenta (n, 4), n >= 1, and scalars (n, S) or None to scores (K,) and their softmax (K,)."""

    outputs = ("scores", "probabilities")

    def forward(self, fourmomenta: Tensor, scalars: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scores = self.network.read_out(self.through_blocks(fourmomenta, scalars))[0]
        return scores, scores.softmax(0)


class SingleJetRegressor(SingleJet):
    """Map fourmomenta (n, 4), n >= 1, and scalars (n, S) or None to momenta (T, 4) and weights (n', T, K).

    The weights of the spurions come first.
    """

    outputs = ("momenta", "weights")

    def forward(self, fourmomenta: Tensor, scalars: Tensor | None = None) -> tuple[Tensor, Tensor]:
        momenta, weights = self.network.read_out(self.through_blocks(fourmomenta, scalars))
        return momenta[0], weights


def single_jet(model: PelicanClassifier | PelicanRegressor, scale: float = 1.0) -> SingleJet:
    """Make the network that computes for one jet what `model` computes for each jet of a batch."""
    return (SingleJetClassifier if isinstance(model, PelicanClassifier) else SingleJetRegressor)(model, scale)
