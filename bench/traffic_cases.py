"""The operations that bench/traffic.py counts, and the bytes that each of their kernels must move.

Jets: 4 events of the sample in the widths of the 48k preset. Clouds: one event of 10,000 points like those of LArTPCs,
tokens of 32 points. The shapes of bigger batches have the same ratios.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import torch

from bench.kernels import lartpc_cloud
from puffin.ops.chamfer import chamfer_distance
from puffin.ops.cnms import centrality_nms
from puffin.ops.fps import farthest_point_sampling
from puffin.ops.neighbors import ball_count, ball_query, knn
from puffin.ops.pair_index import PairIndex
from puffin.ops.pairs import pair_expand, pair_reduce
from puffin.ops.segments import segment_expand, segment_extremum, segment_sum

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample_data" / "run12" / "test.h5"
JETS, MESSAGE, MIXED = 4, 60, 35  # events; channels of the messages and of the 2 -> 2 layers of the 48k preset
POINTS, CENTRES, NEIGHBOURS, TOKEN = 10_000, 1024, 32, 32
RADIUS, OVERLAP = 5.0, 0.72  # voxels
FLOAT, INT, LONG = 4, 4, 8  # bytes
SLOTS = -(-POINTS // 32) * 32  # positions of the points in blocks of 32
BOXES = [SLOTS // 32, -(-SLOTS // 32**2), -(-SLOTS // 32**3)]  # of each level


@dataclass
class Case:
    """An operation: `run` does it once; `must`: bytes of the inputs and outputs of each of its kernels."""

    name: str
    run: Callable[[], object]
    must: dict[str, int]


@cache
def pairs() -> PairIndex:
    """Return the pairs of the first jets of the sample."""
    with h5py.File(SAMPLE) as file:
        return PairIndex(torch.from_numpy(file["Nobj"][:JETS]).long(), torch.device("cpu"))


@cache
def cloud() -> torch.Tensor:
    """Return the points (1, N, 3)."""
    return torch.from_numpy(lartpc_cloud(POINTS))[None]


@cache
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two sets of points (G, K, 3), those of the tokens and a reconstruction of them."""
    index = farthest_point_sampling(cloud(), None, CENTRES)
    groups = cloud()[0][knn(cloud()[:, index[0]], cloud(), None, None, TOKEN)[1][0]]
    return groups, groups + 0.3 * torch.randn(groups.shape, generator=torch.Generator().manual_seed(0))


def random(rows: int, channels: int, grad: bool = False) -> torch.Tensor:
    """Return normal numbers (rows, channels), always the same."""
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(1)).requires_grad_(grad)


def block_kernels(sorted_: bool) -> dict[str, int]:
    """Return the bytes of the kernels that put the cloud into blocks of 32 points and compute their boxes."""
    points, boxes = POINTS * 3 * FLOAT, sum(BOXES) * 6 * FLOAT
    must = {
        "fill_slots": points + (POINTS * LONG if sorted_ else 0) + SLOTS * (3 * FLOAT + INT),
        "fill_boxes": points + boxes + sum(BOXES[:2]) * 6 * FLOAT,
    }
    return {"find_bounds": points, "make_keys": points + POINTS * LONG, **must} if sorted_ else must


def cloud_cases() -> list[Case]:
    """Return the operations of the tokenizers and of the loss of Point-MAE."""
    search = SLOTS * (3 * FLOAT + INT) + sum(BOXES) * 6 * FLOAT  # the points by slots, and their boxes
    queries = cloud()[:, :CENTRES]
    token_points = CENTRES * TOKEN
    return [
        Case(
            "farthest_point_sampling",
            lambda: farthest_point_sampling(cloud(), None, CENTRES),
            block_kernels(True)
            | {"prepare": SLOTS * (3 * INT + FLOAT) + BOXES[0] * 8, "sample": search + SLOTS * 3 * 4 + CENTRES * LONG},
        ),
        Case(
            "knn",
            lambda: knn(queries, cloud(), None, None, NEIGHBOURS),
            block_kernels(True) | {"find_neighbors": search + CENTRES * (3 * FLOAT + NEIGHBOURS * (FLOAT + LONG))},
        ),
        Case(
            "ball_query",
            lambda: ball_query(queries, cloud(), RADIUS, 256),
            block_kernels(False) | {"find_inside": search + CENTRES * (3 * FLOAT + 256 * LONG)},
        ),
        Case(
            "ball_count",
            lambda: ball_count(cloud(), cloud(), 2 * RADIUS * OVERLAP),
            block_kernels(True) | {"count_inside": search + POINTS * (3 * FLOAT + LONG)},
        ),
        Case(
            "cnms",
            lambda: centrality_nms(cloud(), None, RADIUS, OVERLAP),
            block_kernels(True)
            | {
                "count_inside": search + POINTS * (3 * FLOAT + LONG),
                "make_priorities": POINTS * (2 * LONG + INT),
                "suppress": search + POINTS * (3 * FLOAT + 2 * LONG + 2 * INT),
                "compact": POINTS * (INT + LONG),
            },
        ),
        Case(
            "chamfer_distance",
            lambda: chamfer_distance(tokens()[0].requires_grad_(), tokens()[1].requires_grad_()).sum().backward(),
            {
                "find_partner": 2 * token_points * (2 * 3 * FLOAT + FLOAT + LONG),
                "gather_gradient": 2 * token_points * (3 * 3 * FLOAT + 2 * (FLOAT + LONG)),
            },
        ),
    ]


def jet_cases() -> list[Case]:
    """Return the operations of PELICAN."""
    nodes, all_pairs = pairs().num_nodes, pairs().num_pairs
    rows = FLOAT * nodes
    ptr = pairs().node_ptr
    return [
        Case(
            "pair_reduce",
            lambda: pair_reduce(random(all_pairs, MESSAGE), pairs()),
            {"reduce_nodes": FLOAT * MESSAGE * all_pairs + 3 * rows * MESSAGE},
        ),
        Case(
            "pair_expand",
            lambda: pair_expand(*(random(nodes, MIXED) for _ in "uvw"), pairs()),
            {"expand_nodes": FLOAT * MIXED * all_pairs + 3 * rows * MIXED},
        ),
        Case("segment_sum", lambda: segment_sum(random(nodes, MESSAGE), ptr), {"reduce_runs": rows * MESSAGE}),
        Case(
            "segment_expand",
            lambda: segment_expand(random(JETS, MESSAGE), ptr, nodes),
            {"expand_runs": rows * MESSAGE},
        ),
        Case(
            "segment_extremum",
            lambda: segment_extremum(random(nodes, MESSAGE, grad=True), ptr, True).sum().backward(),
            {"reduce_runs": rows * MESSAGE, "share_gradient": 2 * rows * MESSAGE},
        ),
    ]
