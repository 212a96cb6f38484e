"""Optimizers by name."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn, optim

from puffin.settings.common import OPTIMIZERS as NAMES

OPTIMIZERS = {
    "adamw": optim.AdamW,
    "adam": optim.Adam,
    "amsgrad": partial(optim.Adam, amsgrad=True),
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "adamax": optim.Adamax,
    "adagrad": optim.Adagrad,
    "rmsprop": optim.RMSprop,
    "sgd": partial(optim.SGD, momentum=0.9, nesterov=True),
}
assert tuple(OPTIMIZERS) == NAMES  # the choices of --optim
_FUSED = ("adamw", "adam", "amsgrad", "sgd", "adagrad")


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter] | list[dict], lr: float, weight_decay: float
) -> optim.Optimizer:
    """Return the optimizer called `name`, with PyTorch's fused implementation where there is one.

    parameters: an iterable of parameters, or a list of groups: dicts with `params` and, for the trainer, `lr_scale`, a
    factor of the learning rate. ValueError for an unknown name."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optim: expected one of {', '.join(OPTIMIZERS)}, got {name!r}")
    parameters = list(parameters)
    every = [p for group in parameters for p in (group["params"] if isinstance(group, dict) else [group])]
    fused = name in _FUSED and all(p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for p in every)
    return OPTIMIZERS[name](parameters, lr=lr, weight_decay=weight_decay, **({"fused": True} if fused else {}))
