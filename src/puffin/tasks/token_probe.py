"""The linear probe of an encoder: tokens are chosen once and encoded for each probe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from puffin.data.pilarnet import CloudDataset
from puffin.detector import PILARNET
from puffin.layers.grouping import Tokens
from puffin.metrics.probe import linear_probe
from puffin.models.point_encoder import PointEncoder

MOST = 15000  # maximum number of tokens of each split
_EVENTS = 16  # encoded together


@dataclass(frozen=True)
class LabelledTokens:
    """Tokens of a few events; labels (T, classes) bool: whether a token contains points of a class."""

    tokens: Tokens
    labels: np.ndarray


class TokenProbe:
    """The linear probe of an encoder: fitted to tokens of training events, evaluated on tokens of another split.

    datasets: by split; seed: order of the events that the tokens come from; most: maximum number of tokens of each
    split. Nothing is masked or rotated. `names` are the classes."""

    def __init__(self, datasets: dict[str, CloudDataset], seed: int, most: int = MOST):
        self.datasets, self.seed, self.most = datasets, seed, most
        self.names = PILARNET.classes(datasets["train"].selection.remove_led)
        self._chosen: dict[str, list[LabelledTokens]] = {}

    def __call__(self, encoder: PointEncoder, split: str) -> dict[str, float]:
        """Probe the encoder, which must be in evaluation mode: F1 of each class and their mean on a split."""
        return self.judge(encoder, split, encoder.encode)

    @torch.no_grad()
    def judge(self, encoder: PointEncoder, split: str, features: Callable[[Tokens], Tensor]) -> dict[str, float]:
        """Probe any features (T, D) of the encoder's tokens; {} if one is not finite, as of a network that diverged."""
        arrays = []
        for name in ("train", split):
            parts = self.tokens(encoder, name)
            arrays.append(np.concatenate([features(part.tokens).float().cpu().numpy() for part in parts])[: self.most])
            arrays.append(np.concatenate([part.labels for part in parts])[: self.most])
        if not all(np.isfinite(array).all() for array in arrays):
            return {}
        return linear_probe(*arrays, self.names)

    @torch.no_grad()
    def why_missing(self, encoder: PointEncoder, split: str) -> dict[str, str]:
        """Explain, by metric, which F1 of the probe on a split the chosen tokens rule out; {} if none."""
        labels = [
            np.concatenate(
                [np.zeros((0, len(self.names)), bool), *(part.labels for part in self.tokens(encoder, name))]
            )
            for name in ("train", split)
        ]
        train, test = (rows[: self.most] for rows in labels)
        reasons = {}
        for k, name in enumerate(self.names):
            if not train[:, k].any():
                reasons[f"probe_f1_{name}"] = f"no training token of the probe contains {name} points"
            elif train[:, k].all():
                reasons[f"probe_f1_{name}"] = f"every training token of the probe contains {name} points"
            elif not test[:, k].any():
                reasons[f"probe_f1_{name}"] = f"no {split} token of the probe contains {name} points"
        if len(reasons) == len(self.names):
            reasons["probe_f1_mean"] = "the probe has no class that it can be trained and tested on"
        return reasons

    def tokens(self, encoder: PointEncoder, split: str) -> list[LabelledTokens]:
        """Return the tokens of a split; they do not depend on weights, so they are made only once."""
        if split not in self._chosen:
            self._chosen[split] = list(self._choose(encoder, self.datasets[split]))
        return self._chosen[split]

    def _choose(self, encoder: PointEncoder, dataset: CloudDataset) -> Iterator[LabelledTokens]:
        """Yield the tokens of a few events at a time, until there are enough."""
        weight = encoder.position[0].weight
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.seed)).tolist()
        found = 0
        for start in range(0, len(order), _EVENTS):
            batch = dataset[order[start : start + _EVENTS]].to(weight.device, weight.dtype)
            tokens = encoder.tokenize(batch.points, batch.lengths)
            yield LabelledTokens(tokens, token_labels(tokens, batch.semantic, len(self.names)).cpu().numpy())
            found += len(tokens)
            if found >= self.most:
                return


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
