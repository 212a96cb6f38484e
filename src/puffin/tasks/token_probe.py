"""Tokens for the linear probe: chosen once, encoded whenever asked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from puffin.data.pilarnet import CLASS_NAMES, CloudDataset
from puffin.layers.grouping import Tokens
from puffin.metrics.probe import linear_probe
from puffin.models.point_encoder import PointEncoder

MOST = 15000  # tokens to fit and to judge with
_EVENTS = 16  # encoded together


@dataclass(frozen=True)
class LabelledTokens:
    """Tokens of a few events and the classes that their points have, labels (T, classes) bool, on the CPU."""

    tokens: Tokens
    labels: np.ndarray


class TokenProbe:
    """The linear probe of an encoder: fitted to tokens of training events, judged on those of another split.

    datasets by split; of each at most `most` tokens, from events in an order that follows from the seed.  Nothing is
    masked or rotated."""

    def __init__(self, datasets: dict[str, CloudDataset], seed: int, most: int = MOST):
        self.datasets, self.seed, self.most = datasets, seed, most
        self.names = CLASS_NAMES[:4] if datasets["train"].selection.remove_led else CLASS_NAMES
        self._chosen: dict[str, list[LabelledTokens]] = {}

    def __call__(self, encoder: PointEncoder, split: str) -> dict[str, float]:
        """F1 by class and their mean on a split; the encoder must be in evaluation mode."""
        return self.judge(encoder, split, encoder.encode)

    @torch.no_grad()
    def judge(self, encoder: PointEncoder, split: str, features: Callable[[Tokens], Tensor]) -> dict[str, float]:
        """The probe of any features (T, D) of an encoder's tokens."""
        arrays = []
        for name in ("train", split):
            parts = self.tokens(encoder, name)
            arrays.append(np.concatenate([features(part.tokens).float().cpu().numpy() for part in parts])[: self.most])
            arrays.append(np.concatenate([part.labels for part in parts])[: self.most])
        return linear_probe(*arrays, self.names)

    def tokens(self, encoder: PointEncoder, split: str) -> list[LabelledTokens]:
        """The split's tokens: made at the first call, as no weights are involved."""
        if split not in self._chosen:
            self._chosen[split] = list(self._choose(encoder, self.datasets[split]))
        return self._chosen[split]

    def _choose(self, encoder: PointEncoder, dataset: CloudDataset) -> Iterator[LabelledTokens]:
        weight = encoder.position[0].weight
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.seed)).tolist()
        found = 0
        for start in range(0, len(order), _EVENTS):
            batch = dataset.__getitems__(order[start : start + _EVENTS]).to(weight.device, weight.dtype)
            tokens = encoder.tokenize(batch.points, batch.lengths)
            yield LabelledTokens(tokens, token_labels(tokens, batch.semantic, len(self.names)).cpu().numpy())
            found += len(tokens)
            if found >= self.most:
                return


def token_labels(tokens: Tokens, semantic: Tensor, num_classes: int) -> Tensor:
    """(T, num_classes) bool: which classes the points of each token have; semantic (P,) int64 of all points."""
    token = torch.repeat_interleave(tokens.counts).to(semantic.device)
    labels = torch.zeros(
        len(tokens),
        max(num_classes, int(semantic.max()) + 1 if len(semantic) else 0),
        dtype=torch.bool,
        device=semantic.device,
    )
    labels[token, semantic[tokens.index]] = True
    return labels[:, :num_classes]
