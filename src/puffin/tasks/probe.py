"""The linear probe of a network: samples are chosen once, and their features are computed for each probe."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from puffin.data.packing import CloudBatch
from puffin.data.pilarnet import CloudDataset
from puffin.detector import PILARNET
from puffin.metrics.probe import linear_probe

MOST = 15000  # maximum number of samples of each split
_EVENTS = 16  # read together


@dataclass(frozen=True)
class Labelled:
    """Samples of a few events; labels (N, classes) bool: whether a sample has a class."""

    samples: Any
    labels: np.ndarray


class Probe(ABC):
    """The linear probe: fitted to samples of training events, evaluated on samples of another split.

    datasets: by split; seed: which samples are chosen; most: maximum number of samples of each split. Nothing is masked
    or rotated. `names` are the classes. A subclass says what a sample is; item, having: its name, and how it has a
    class, in messages."""

    item: str
    having: str

    def __init__(self, datasets: dict[str, CloudDataset], seed: int, most: int = MOST):
        self.datasets, self.seed, self.most = datasets, seed, most
        self.names = PILARNET.classes(datasets["train"].selection.remove_led)
        self._chosen: dict[str, list[Labelled]] = {}

    @abstractmethod
    def choose(self, model: nn.Module, batch: CloudBatch, generator: torch.Generator) -> Labelled:
        """Choose the samples of a few events; generator: on the CPU."""

    @abstractmethod
    def features(self, model: nn.Module, samples: Any) -> torch.Tensor:
        """Compute the features of samples, (N, D)."""

    def __call__(self, model: nn.Module, split: str) -> dict[str, float]:
        """Probe a network, which must be in evaluation mode: F1 of each class and their mean on a split."""
        return self.judge(model, split, lambda samples: self.features(model, samples))

    @torch.no_grad()
    def judge(self, model: nn.Module, split: str, features: Callable[[Any], torch.Tensor]) -> dict[str, float]:
        """Probe any features (N, D) of the samples; {} if one is not finite, as of a network that diverged."""
        train, test = (
            np.concatenate([features(part.samples).float().cpu().numpy() for part in self.samples(model, name)])
            for name in ("train", split)
        )
        if not (np.isfinite(train[: self.most]).all() and np.isfinite(test[: self.most]).all()):
            return {}
        train_labels, test_labels = (self._labels(model, name) for name in ("train", split))
        return linear_probe(train[: self.most], train_labels, test[: self.most], test_labels, self.names)

    @torch.no_grad()
    def why_missing(self, model: nn.Module, split: str) -> dict[str, str]:
        """Explain, by metric, which F1 of the probe on a split the chosen samples rule out; {} if none."""
        train, test = (self._labels(model, name) for name in ("train", split))
        reasons = {}
        for k, name in enumerate(self.names):
            having = self.having.format(name)
            if not train[:, k].any():
                reasons[f"probe_f1_{name}"] = f"no training {self.item} of the probe {having}"
            elif train[:, k].all():
                reasons[f"probe_f1_{name}"] = f"every training {self.item} of the probe {having}"
            elif not test[:, k].any():
                reasons[f"probe_f1_{name}"] = f"no {split} {self.item} of the probe {having}"
        if len(reasons) == len(self.names):
            reasons["probe_f1_mean"] = "the probe has no class that it can be trained and tested on"
        return reasons

    def samples(self, model: nn.Module, split: str) -> list[Labelled]:
        """Return the samples of a split; they do not depend on weights, so they are chosen only once."""
        if split not in self._chosen:
            self._chosen[split] = list(self._choose(model, self.datasets[split]))
        return self._chosen[split]

    def _labels(self, model: nn.Module, split: str) -> np.ndarray:
        none = np.zeros((0, len(self.names)), bool)
        return np.concatenate([none, *(part.labels for part in self.samples(model, split))])[: self.most]

    def _choose(self, model: nn.Module, dataset: CloudDataset) -> Iterator[Labelled]:
        """Yield the samples of a few events at a time, until there are enough."""
        weight = next(model.parameters())
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(dataset), generator=generator).tolist()
        found = 0
        for start in range(0, len(order), _EVENTS):
            batch = dataset[order[start : start + _EVENTS]].to(weight.device, weight.dtype)
            yield (chosen := self.choose(model, batch, generator))
            found += len(chosen.labels)
            if found >= self.most:
                return
