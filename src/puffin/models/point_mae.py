"""Masked autoencoders on point clouds: Point-MAE, and PoLAr-MAE, which also predicts energies.

Source: docs/MATHEMATICS_CLOUDS.md, section 6; arXiv 2502.02558, sec. 3; Pang et al., arXiv 2203.06604.  Without a
decoder: SimMIM, Xie et al., arXiv 2111.09886.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from puffin.layers.grouping import Tokens
from puffin.layers.packed import event_of_row, random_order, rank_in_event, to_device
from puffin.layers.pointnet import MiniPointNet
from puffin.layers.transformer import Transformer, init_weights
from puffin.losses.clouds import chamfer_by_group, energy_by_group, mean_of
from puffin.models.point_encoder import PointEncoder
from puffin.settings.clouds import PointMAEConfig


class Reconstruction(NamedTuple):
    """The prediction for the M masked tokens among `tokens`; masked (T,) bool on the CPU.

    hidden: the masked tokens with their true points.  points (M, group_size, in_channels): predicted points, in the
    units of the groups; the first `hidden.counts` of each token are used.  energy (M, group_size): predicted energies
    of the true points in their order, or None.
    """

    tokens: Tokens
    masked: Tensor
    hidden: Tokens
    points: Tensor
    energy: Tensor | None

    def losses(self) -> dict[str, Tensor]:
        """Return the terms of the loss: `chamfer`, a mean over the hidden tokens, and `energy`, one over their points.

        `energy` is there only if energies are predicted.
        """
        return {name: mean_of(sums) for name, sums in self.sums().items()}

    def sums(self) -> dict[str, Tensor]:
        """Return each term as (2,): the sum of the errors, and their number. Both add up over batches and processes."""
        number = {"chamfer": len(self.hidden), "energy": len(self.hidden.groups)}
        return {
            name: torch.stack([each.sum(), each.new_full((), number[name])]) for name, each in self.errors().items()
        }

    def errors(self) -> dict[str, Tensor]:
        """Return (M,) for each term: `chamfer`, the distance of a hidden token; `energy`, the sum over its points."""
        hidden = self.hidden
        terms = {"chamfer": chamfer_by_group(self.points, hidden.groups, hidden.counts)}
        if self.energy is not None:
            terms["energy"] = energy_by_group(self.energy, hidden.groups[:, 3], hidden.counts)
        return terms

    def by_event(self) -> dict[str, Tensor]:
        """Count the hidden tokens and points of each event and add up their errors: columns (B,) float32.

        hidden: tokens; hidden_points: their points; <term>_sum: of each term."""
        hidden, device = self.hidden, self.points.device
        event = to_device(event_of_row(hidden.lengths), device)
        columns = {"hidden": torch.ones(len(event)), "hidden_points": hidden.counts.float()}
        columns = {name: to_device(value, device) for name, value in columns.items()}
        columns |= {f"{name}_sum": value.detach().float() for name, value in self.errors().items()}
        return {name: x.new_zeros(len(hidden.lengths)).index_add(0, event, x) for name, x in columns.items()}


def random_mask(lengths: Tensor, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Choose floor(ratio n) random parts of each event: (T,) bool; lengths (B,) int64 and generator on the CPU."""
    order = random_order(lengths, generator)
    wanted = (lengths.double() * ratio + 1e-9).floor().long()  # 0.29 * 100 must be 29
    masked = torch.zeros(len(order), dtype=torch.bool)
    masked[order] = rank_in_event(lengths) < wanted[event_of_row(lengths)]
    return masked


def check_mask(masked: Tensor, number: int) -> None:
    """Raise ValueError unless a mask is (number,) bool on the CPU."""
    if masked.shape != (number,) or masked.dtype != torch.bool or masked.device.type != "cpu":
        got = f"{tuple(masked.shape)} {masked.dtype} on {masked.device}"
        raise ValueError(f"masked: expected ({number},) bool on the CPU, got {got}")


class MaskedAutoencoder(nn.Module, ABC):
    """A network that splits events into parts, and predicts those that are masked from the others."""

    config: PointMAEConfig

    @property
    @abstractmethod
    def terms(self) -> dict[str, str]:
        """Name of each term of the loss, and of the column of `by_event` that counts what it is a mean over."""

    @abstractmethod
    def parts(self, points: Tensor, lengths: Tensor) -> Any:
        """Split points (P, 4) into the parts that can be masked; lengths (B,) int64 on the CPU."""

    @abstractmethod
    def reconstruct(self, parts: Any, masked: Tensor) -> Any:
        """Predict the masked parts; masked (T,) bool on the CPU.  Raises ValueError for another mask."""

    def forward(
        self, points: Tensor, lengths: Tensor, masked: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Any:
        """Reconstruct packed points (P, 4); lengths (B,) int64 and masked (T,) bool on the CPU; None: a random mask."""
        parts = self.parts(points, lengths)
        if masked is None:
            masked = random_mask(parts.lengths, self.config.mask_ratio, generator)
        return self.reconstruct(parts, masked)


class EnergyHead(nn.Module):
    """Predict the energies of a masked token's points from their true positions and the decoder's token."""

    def __init__(self, dim: int, size: int, padding_row: bool = False, sync: bool = False):
        super().__init__()
        self.embedding = MiniPointNet(3, dim, size, ordered=True, padding_row=padding_row, sync=sync)
        self.linear = nn.Linear(2 * dim, size)

    def forward(self, groups: Tensor, counts: Tensor, decoded: Tensor) -> Tensor:
        """Map groups (G, 3 or more), counts (M,) on the CPU and decoded (M, dim) to energies (M, size)."""
        positions = self.embedding(groups[:, :3], counts)
        return self.linear(torch.cat([positions, decoded.to(positions.dtype)], 1))


class PointMAE(MaskedAutoencoder):
    """Mask most tokens of an event, encode the visible ones, predict the points (and energies) of the masked ones."""

    def __init__(self, config: PointMAEConfig):
        super().__init__()
        self.config = config
        encoder, size = config.encoder, config.encoder.tokens.group_size
        self.encoder = PointEncoder(encoder)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(encoder.dim), std=0.02))
        self.decoder = Transformer(config.decoder) if config.decoder.depth else None
        self.points = nn.Linear(encoder.dim, encoder.in_channels * size)
        init_weights(self.points)
        self.energy = None
        if config.energy:
            self.energy = EnergyHead(encoder.dim, size, encoder.published_norms, encoder.sync_batchnorm)

    @property
    def terms(self) -> dict[str, str]:
        """Name of each term of the loss, and of the column that counts what it is a mean over."""
        return {"chamfer": "hidden"} | ({"energy": "hidden_points"} if self.config.energy else {})

    def parts(self, points: Tensor, lengths: Tensor) -> Tokens:
        """Split points (P, 4) into tokens; lengths (B,) int64 on the CPU."""
        return self.encoder.tokenize(points, lengths)

    def reconstruct(self, parts: Tokens, masked: Tensor) -> Reconstruction:
        """Predict the masked tokens; masked (T,) bool on the CPU.  Raises ValueError for another mask."""
        check_mask(masked, len(parts))
        hidden = parts.select(masked)
        decoded = self._decode(parts, masked)
        predicted = self.points(decoded).unflatten(1, (-1, parts.groups.shape[1]))
        energy = None if self.energy is None else self.energy(hidden.groups, hidden.counts, decoded)
        return Reconstruction(parts, masked, hidden, predicted, energy)

    def _decode(self, tokens: Tokens, masked: Tensor) -> Tensor:
        """Return the last transformer's output at the masked tokens, (M, dim).

        With a decoder the encoder sees the visible tokens only; without one it also takes the mask tokens.
        """
        encoder, visible = self.encoder, tokens.select(~masked)
        features = encoder.embed(visible) if self.decoder is None else encoder.encode(visible)
        device = features.device
        visible_rows, masked_rows = (to_device(rows.nonzero()[:, 0], device) for rows in (~masked, masked))
        x = self.mask_token.to(features.dtype).expand(len(tokens), -1).index_copy(0, visible_rows, features)
        last = encoder.transformer if self.decoder is None else self.decoder
        return last(x, encoder.position(tokens.centres), tokens.lengths)[masked_rows]
