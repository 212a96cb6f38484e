"""Activations by name."""

import torch
from torch import nn

from puffin.settings.pelican import ACTIVATIONS as NAMES


class Atan(nn.Module):
    """Apply arctan(x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.atan(x)


ACTIVATIONS = {
    "leakyrelu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "atan": Atan,
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
}
assert list(ACTIVATIONS) == NAMES  # which are the choices of --activation


def make_activation(name: str) -> nn.Module:
    """Make the activation called `name`; raise ValueError with the choices if there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()
