"""A padded Point-MAE / PoLAr-MAE, the yardstick of `bench/pointmae.py`.

It computes what the paper writes on tables of fixed size: every event has `context` token slots, every token
`group_size` point slots, masks keep the padding out. Neighbours come from full distance matrices, the encoder takes
all slots and masks what it must not see. Same parameters under the same names as `puffin.models.point_mae.PointMAE`, so
that one state serves both and their outputs agree.

Shapes: B events, N points of the longest, S token slots, K point slots of a token, C channels.
Source: arXiv 2502.02558; docs/MATHEMATICS_CLOUDS.md.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puffin.layers.pointnet import OrderCode
from puffin.layers.transformer import DropPath
from puffin.settings.clouds import PointMAEConfig
from puffin.settings.encoder import ARCHITECTURES, TokenizerConfig, TransformerConfig


class PaddedTokens(NamedTuple):
    """groups (B, S, K, D), point_mask (B, S, K), centres (B, S, 3), token_mask (B, S); zero where False."""

    groups: Tensor
    point_mask: Tensor
    centres: Tensor
    token_mask: Tensor


def keep_centres(distance: Tensor, radius: float) -> Tensor:
    """C-NMS from the distances (n, n): indices of the kept points, ascending."""
    near = distance < radius
    count, alive, kept = near.sum(1), torch.ones(len(distance), dtype=torch.bool), []
    while alive.any():
        best = int(torch.where(alive, count, -1).argmax())
        kept.append(best)
        alive &= ~near[best]
    return torch.tensor(sorted(kept))


def farthest(points: Tensor, mask: Tensor, k: int) -> Tensor:
    """Sample min(k, U) points of each group (T, U, 3), farthest first; entries beyond a group's size are arbitrary."""
    distance = torch.where(mask, torch.inf, -1.0)
    at = torch.zeros(len(points), 1, dtype=torch.int64)
    chosen = []
    for _ in range(min(k, points.shape[1])):
        chosen.append(at)
        distance = distance.scatter(1, at, -1.0)
        step = (points - points.gather(1, at[..., None].expand(-1, -1, 3))).square().sum(-1)
        distance = torch.minimum(distance, step)
        at = distance.argmax(1, keepdim=True)
    return torch.cat(chosen, 1)


@torch.no_grad()
def padded_tokens(points: Tensor, lengths: Tensor, config: TokenizerConfig) -> PaddedTokens:
    """Volumetric tokens of points (B, N, 4), lengths (B,), by brute force."""
    batch, slots, size = len(points), config.context, config.group_size
    groups = points.new_zeros(batch, slots, size, points.shape[2])
    point_mask = torch.zeros(batch, slots, size, dtype=torch.bool)
    centres, token_mask = points.new_zeros(batch, slots, 3), torch.zeros(batch, slots, dtype=torch.bool)
    for event, n in enumerate(lengths.tolist()):
        cloud = points[event, :n]
        distance = torch.cdist(cloud[:, :3], cloud[:, :3], compute_mode="donot_use_mm_for_euclid_dist")
        kept = keep_centres(distance, 2 * config.radius * config.overlap)[:slots]
        inside = distance[kept] < config.radius
        rank = inside.cumsum(1) - 1
        inside &= rank < config.upscale
        count = inside.sum(1)
        row, column = inside.nonzero(as_tuple=True)
        members = torch.zeros(len(kept), int(count.max()), dtype=torch.int64)
        members[row, rank[row, column]] = column
        near = cloud[members]
        pick = farthest(near[..., :3], torch.arange(near.shape[1]) < count[:, None], size)
        near = near.gather(1, pick[..., None].expand(-1, -1, near.shape[2]))
        mask = torch.arange(pick.shape[1]) < count[:, None]
        centre = cloud[kept, :3]
        near = torch.cat([(near[..., :3] - centre[:, None]) / config.radius, near[..., 3:]], -1)
        t, k = len(kept), pick.shape[1]
        groups[event, :t, :k] = torch.where(mask[..., None], near, 0)
        point_mask[event, :t, :k], centres[event, :t], token_mask[event, :t] = mask, centre, True
    return PaddedTokens(groups, point_mask, centres, token_mask)


class PaddedBatchNorm(nn.BatchNorm1d):
    """Statistics over the entries of x (..., C) where mask (...) is True."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            weight = mask[..., None].to(x.dtype) / mask.sum()
            mean = (x * weight).flatten(0, -2).sum(0)
            var = ((x - mean).square() * weight).flatten(0, -2).sum(0)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias


class PaddedPointNet(nn.Module):
    """groups (B, S, K, D) -> (B, S, dim), the layers as they are written: the maximum is copied to every point."""

    def __init__(self, channels: int, dim: int, size: int, ordered: bool = False):
        super().__init__()
        self.first, self.first_norm = nn.Linear(channels, 128, bias=False), PaddedBatchNorm(128)
        self.stage = nn.Linear(128, 256)
        self.order = OrderCode(size) if ordered else None
        self.second, self.second_norm = nn.Linear(512, 512, bias=False), PaddedBatchNorm(512)
        self.out = nn.Linear(512, dim)

    def forward(self, groups: Tensor, mask: Tensor) -> Tensor:
        def largest(x):
            return torch.where(mask[..., None], x, -torch.inf).amax(2, keepdim=True).nan_to_num(neginf=0)

        x = self.stage(F.relu(self.first_norm(self.first(groups), mask)))
        if self.order is not None:
            x = x + self.order()
        x = torch.cat([largest(x).expand_as(x), x], -1)
        x = self.out(F.relu(self.second_norm(self.second(x), mask)))
        return largest(x)[:, :, 0]


class PaddedAttention(nn.Module):
    """Attention over S slots; keys where mask (B, S) is False are not seen."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=dropout)
        return self.proj(x.transpose(1, 2).flatten(2))


class PaddedBlock(nn.Module):
    def __init__(self, config: TransformerConfig, rate: float):
        super().__init__()
        dim, heads = ARCHITECTURES[config.arch]
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = PaddedAttention(dim, heads, config.attention_dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop_path = DropPath(rate)

    def drop(self, x: Tensor) -> Tensor:
        return self.drop_path(x.flatten(0, 1)).view_as(x)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), mask))
        return x + self.drop(self.mlp(self.norm2(x)))


class PaddedTransformer(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(PaddedBlock(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.dim) if config.final_norm else nn.Identity()

    def forward(self, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x + position, mask)
        return self.norm(x)


class PaddedEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = PaddedPointNet(config.in_channels, config.dim, config.tokens.group_size)
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, config.dim))
        self.transformer = PaddedTransformer(config.transformer)

    def forward(self, tokens: PaddedTokens, visible: Tensor) -> Tensor:
        x = self.embedding(tokens.groups, tokens.point_mask & visible[..., None])
        return self.transformer(x, self.position(tokens.centres), visible)


class PaddedEnergyHead(nn.Module):
    def __init__(self, dim: int, size: int):
        super().__init__()
        self.embedding = PaddedPointNet(3, dim, size, ordered=True)
        self.linear = nn.Linear(2 * dim, size)


class PaddedPointMAE(nn.Module):
    """The masked autoencoder on padded tables; loads the state of a PointMAE of the same (clean) configuration."""

    def __init__(self, config: PointMAEConfig):
        super().__init__()
        encoder, size = config.encoder, config.encoder.tokens.group_size
        self.config = config
        self.encoder = PaddedEncoder(encoder)
        self.mask_token = nn.Parameter(torch.zeros(encoder.dim))
        self.decoder = PaddedTransformer(config.decoder)
        self.points = nn.Linear(encoder.dim, encoder.in_channels * size)
        self.energy = PaddedEnergyHead(encoder.dim, size) if config.energy else None

    def forward(self, tokens: PaddedTokens, masked: Tensor) -> dict[str, Tensor]:
        """masked (B, S), True at hidden tokens -> the losses `chamfer` and, for PoLAr-MAE, `energy`."""
        seen = self.encoder(tokens, tokens.token_mask & ~masked)
        x = torch.where(masked[..., None], self.mask_token, seen)
        decoded = self.decoder(x, self.encoder.position(tokens.centres), tokens.token_mask)
        true, valid = tokens.groups[masked], tokens.point_mask[masked]
        predicted = self.points(decoded[masked]).view_as(true)
        losses = {"chamfer": self.chamfer(predicted, true, valid)}
        if self.energy is not None:
            positions = self.energy.embedding(tokens.groups[..., :3], tokens.point_mask & masked[..., None])
            energy = self.energy.linear(torch.cat([positions, decoded], -1))[masked]
            losses["energy"] = (energy - true[..., 3])[valid].square().mean()
        return losses

    @staticmethod
    def chamfer(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
        """predicted, true (M, K, D), valid (M, K): mean over the groups, all pairs of a group computed."""
        distance = (predicted[:, :, None] - true[:, None]).square().sum(-1)
        number = valid.sum(1)
        one = torch.where(valid[:, None], distance, torch.inf).amin(2)
        other = torch.where(valid[:, :, None], distance, torch.inf).amin(1)
        return sum((torch.where(valid, d, 0).sum(1) / number).mean() for d in (one, other))


def slots_of(mask: Tensor, token_mask: Tensor) -> Tensor:
    """A packed mask (T,) of tokens in their padded slots (B, S)."""
    out = torch.zeros_like(token_mask)
    out[token_mask] = mask
    return out
