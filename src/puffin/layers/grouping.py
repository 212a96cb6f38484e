"""Tokens of a point cloud: centres, and the points around each.

Source: arXiv 2502.02558, sec. 3 (volumetric tokens); Pang et al., arXiv 2203.06604 (farthest point centres with kNN).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from puffin.layers.packed import check_packed, offsets, pad, to_device, unpad
from puffin.ops.cnms import centrality_nms
from puffin.ops.fps import farthest_point_sampling
from puffin.ops.neighbors import ball_query, knn
from puffin.settings.encoder import TokenizerConfig


@dataclass(frozen=True)
class Tokens:
    """T tokens of B events and their G points, one after another.

    groups (G, D): (x, y, z) relative to the centre in units of the radius, then the point's other columns; the order
    in a group is that of the reduction.  index (G,) int64: the points' rows in the packed cloud.  centres (T, 3).
    On the CPU, int64: counts (T,) points of each token; lengths (B,) tokens of each event; dropped (B,) tokens beyond
    the context.  Tokens are ordered as their centres are in the event; those beyond the context are dropped.
    """

    groups: Tensor
    index: Tensor
    centres: Tensor
    counts: Tensor
    lengths: Tensor
    dropped: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def select(self, chosen: Tensor) -> "Tokens":
        """Return the tokens where chosen (T,) bool, on the CPU, is True."""
        token = to_device(chosen.nonzero()[:, 0], self.centres.device)
        point = to_device(chosen.repeat_interleave(self.counts).nonzero()[:, 0], self.groups.device)
        return Tokens(
            self.groups[point],
            self.index[point],
            self.centres[token],
            self.counts[chosen],
            count_chosen(chosen, self.lengths),
            self.dropped,
        )


def count_chosen(chosen: Tensor, lengths: Tensor) -> Tensor:
    """Count the rows of each event that are True in chosen (rows,): (B,) int64."""
    return offsets(chosen.long())[offsets(lengths)].diff()


@torch.no_grad()
def tokenize(points: Tensor, lengths: Tensor, config: TokenizerConfig) -> Tokens:
    """Group packed points (P, D >= 3; the fourth column is the energy) into tokens; lengths (B,) int64 on the CPU.

    Groups overlap.  A point that is at the radius or farther from every centre is in no group; this happens to a few
    points if C-NMS has an overlap above 0.5.

    Waits for a GPU twice: the number of tokens, and then that of their points, decide the sizes of all that follows.
    """
    config = config.complete()
    check_packed(points, lengths, 4 if config.reduction == "energy" else 3)
    cloud = pad(points, lengths, max([1, *lengths.tolist()]))  # one column at least, so that index 0 exists
    sizes = to_device(lengths, points.device)
    chosen, num_chosen = _centres(cloud, sizes, config)
    num_chosen = num_chosen.cpu()
    num_tokens = num_chosen.clamp(max=config.context)
    longest = int(num_tokens.max()) if len(num_tokens) else 0
    centres = cloud.gather(1, chosen[:, :longest, None].expand(-1, -1, 3).clamp(min=0))

    members = _members(
        centres, cloud, to_device(num_tokens, points.device), sizes, config
    )  # (B, tokens, width), -1 = none
    members, centres = unpad(members, num_tokens), unpad(centres, num_tokens)
    found = (members >= 0).sum(1)
    counts = found.cpu()
    begin = to_device(offsets(lengths)[:-1].repeat_interleave(num_tokens), points.device)
    members = _reduced(points, members[:, : int(counts.max()) if len(counts) else 0], begin[:, None], found, config)

    counts = counts.clamp(max=config.group_size)
    index = unpad(members, counts)
    token = to_device(torch.repeat_interleave(counts), points.device)
    features = points[index]
    if config.mean_centres:
        total = torch.zeros_like(centres).index_add_(0, token, features[:, :3])
        centres = total / to_device(counts, total.device).to(total.dtype)[:, None]
    groups = torch.cat([(features[:, :3] - centres[token]) / config.radius, features[:, 3:]], 1)
    return Tokens(groups, index, centres, counts, num_tokens, num_chosen - num_tokens)


def _centres(cloud: Tensor, sizes: Tensor, config: TokenizerConfig) -> tuple[Tensor, Tensor]:
    """Choose the points that become centres: rows of the padded cloud (B, N) int64, and their number (B,)."""
    if config.centres == "fps":
        return farthest_point_sampling(cloud, sizes, config.context), sizes.clamp(max=config.context)
    if not config.seeds:
        return centrality_nms(cloud, sizes, config.radius, config.overlap)
    seeds = farthest_point_sampling(cloud, sizes, config.seeds)
    candidates = cloud.gather(1, seeds[..., None].clamp(min=0).expand(-1, -1, 3))
    index, number = centrality_nms(candidates, sizes.clamp(max=config.seeds), config.radius, config.overlap)
    return seeds.gather(1, index.clamp(min=0)), number


def _members(centres: Tensor, cloud: Tensor, num_tokens: Tensor, sizes: Tensor, config: TokenizerConfig) -> Tensor:
    """Find the points of each token: rows of the padded cloud (B, tokens, width) int64, -1 = none."""
    if config.neighbours == "knn":
        return knn(centres, cloud, num_tokens, sizes, config.group_size)[1]
    return ball_query(centres, cloud, config.radius, config.upscale, num_tokens, sizes)


def _reduced(points: Tensor, members: Tensor, begin: Tensor, counts: Tensor, config: TokenizerConfig) -> Tensor:
    """Reduce each token to `group_size` points at most: rows of the packed cloud (T, width), padded arbitrarily."""
    rows = members.clamp(min=0) + begin
    if config.neighbours == "knn":
        return rows
    if config.reduction == "energy":
        energy = points[:, 3][rows].masked_fill(members < 0, -torch.inf)
        order = torch.sort(energy, dim=1, descending=True, stable=True).indices[:, : config.group_size]
    else:
        order = farthest_point_sampling(points[:, :3][rows], counts, config.group_size).clamp(min=0)
    return rows.gather(1, order)
