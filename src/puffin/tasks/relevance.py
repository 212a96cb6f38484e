"""What a PELICAN network looks at: how much each particle and each pair of a jet contributes to a score.

The relevance of an input is the gradient of the score times the input: the change of the score, to first order, per
relative change of the input. Source: Shrikumar et al., arXiv 1605.01713, sec. 2.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from puffin.data.packing import JetBatch
from puffin.models.pelican import PelicanBackbone


class Relevance(NamedTuple):
    """The relevances of the N particles of a jet and of its pairs.

    particles (N,): a four-momentum times the gradient with respect to it; pairs (U, 2) int64: numbers i <= j of two
    particles; of_pairs (U,): their pair features times the gradient."""

    particles: Tensor
    pairs: Tensor
    of_pairs: Tensor


def relevance(model: PelicanBackbone, jet: JetBatch, score: Callable[[Tensor], Tensor]) -> Relevance:
    """Compute the relevances for one jet (a batch of one), with the model in evaluation mode.

    score: from the output of the model to a number. The pair features are the dot products p_i.p_j, and for
    --method input also the products of components, or angles in an IRC-safe network. Without spurions and angles all
    are of second order in the momenta, so the relevances of all pairs add up to half of those of all particles (Euler's
    theorem)."""
    momenta = jet.fourmomenta.detach().clone().requires_grad_()
    seen: list = []
    hook = model.input_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    try:
        found = score(model(replace(jet, fourmomenta=momenta)))
    finally:
        hook.remove()
    features, _, geometry, *_ = seen[0]
    of_momenta, of_features = torch.autograd.grad(found, (momenta, features))
    spurions = len(model.config.spurions)
    nodes = torch.arange(len(momenta) + spurions, device=momenta.device) - spurions
    ends = torch.stack(geometry.ends(nodes), 1)
    chosen = (ends >= 0).all(1)  # no spurions
    of_pairs = (features.detach() * of_features).sum(1)
    return Relevance((momenta.detach() * of_momenta).sum(1), ends[chosen], of_pairs[chosen])
