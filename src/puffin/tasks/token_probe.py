"""The linear probe of a transformer, whose samples are tokens."""

import torch
from torch import Tensor

from puffin.data.packing import CloudBatch
from puffin.layers.grouping import Tokens
from puffin.models.point_mae import PointMAE
from puffin.tasks.probe import Labelled, Probe


class TokenProbe(Probe):
    """The linear probe of the embeddings of tokens: which of them contain points of a class.

    Source: arXiv 2502.02558, sec. 4."""

    item, having = "token", "contains {} points"

    def choose(self, model: PointMAE, batch: CloudBatch, generator: torch.Generator) -> Labelled:
        """Choose all tokens of the events; generator is not used."""
        tokens = model.encoder.tokenize(batch.points, batch.lengths)
        return Labelled(tokens, token_labels(tokens, batch.semantic, len(self.names)).cpu().numpy())

    def features(self, model: PointMAE, samples: Tokens) -> Tensor:
        """Encode tokens: (T, dim)."""
        return model.encoder.encode(samples)


def token_labels(tokens: Tokens, semantic: Tensor, num_classes: int) -> Tensor:
    """Return whether a token contains points of a class, (T, num_classes) bool; semantic (P,): class of each point."""
    token = torch.repeat_interleave(tokens.counts).to(semantic.device)
    labels = torch.zeros(
        len(tokens),
        max(num_classes, int(semantic.max()) + 1 if len(semantic) else 0),
        dtype=torch.bool,
        device=semantic.device,
    )
    labels[token, semantic[tokens.index]] = True
    return labels[:, :num_classes]
