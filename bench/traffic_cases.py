"""The operations that bench/traffic.py counts, and the bytes that each of their kernels must move.

Jets: 4 events of the sample in the widths of the 48k preset. Clouds: one event of 10,000 points like those of LArTPCs,
tokens of 32 points, and hand-made features of 1000 points. The shapes of bigger batches have the same ratios.
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
from puffin.ops.geometry import NEIGHBOURS, components, local_geometry
from puffin.ops.messages import message
from puffin.ops.neighbors import ball_count, ball_query, knn
from puffin.ops.pair_index import PairIndex
from puffin.ops.pairs import pair_expand, pair_mix, pair_reduce
from puffin.ops.piecewise_linear import piecewise_linear
from puffin.ops.segments import segment_expand, segment_extremum, segment_sum

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample_data" / "run12" / "test.h5"
JETS, MESSAGE, MIXED = 4, 60, 35  # events; channels of the messages and of the 2 -> 2 layers of the 48k preset
POINTS, TOKEN = 10_000, 32  # points of an event and of a token; every tenth point is a centre
RADIUS, OVERLAP = 5.0, 0.72  # voxels
FEATURES, KNOTS, WIDTH = 52, 13, 64  # hand-made features of a point, knots of their functions, channels
LINK = 1.8  # voxels
FLOAT, INT, LONG, DOUBLE, SECTOR = 4, 4, 8, 8, 32  # bytes


@dataclass
class Case:
    """An operation: `run` does it once; `must`: bytes of the inputs and outputs of each of its kernels."""

    name: str
    run: Callable[[], object]
    must: dict[str, int]


@cache
def pairs(jets: int = JETS) -> PairIndex:
    """Return the pairs of the first jets of the sample."""
    with h5py.File(SAMPLE) as file:
        return PairIndex(torch.from_numpy(file["Nobj"][:jets]).long(), torch.device("cpu"))


@cache
def cloud(points: int) -> torch.Tensor:
    """Return an event (1, N, 3)."""
    return torch.from_numpy(lartpc_cloud(points))[None]


@cache
def tokens(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the points (G, K, 3) of the tokens of an event, and a reconstruction of them."""
    event = cloud(points)
    index = farthest_point_sampling(event, None, points // 10)
    groups = event[0][knn(event[:, index[0]], event, None, None, TOKEN)[1][0]]
    return groups, groups + 0.3 * torch.randn(groups.shape, generator=torch.Generator().manual_seed(0))


def random(rows: int, channels: int, grad: bool = False) -> torch.Tensor:
    """Return normal numbers (rows, channels), always the same."""
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(1)).requires_grad_(grad)


@dataclass
class Blocks:
    """The points of an event in blocks of 32, with their boxes (csrc/cuda/boxes.cuh)."""

    points: int
    columns: int = 3  # numbers of a point

    @property
    def slots(self) -> int:
        """Positions in whole blocks."""
        return -(-self.points // 32) * 32

    @property
    def boxes(self) -> list[int]:
        """Boxes of each level."""
        return [-(-self.slots // 32**level) for level in (1, 2, 3)]

    @property
    def searched(self) -> int:
        """Bytes of the coordinates, indices and boxes, which a search reads."""
        return self.slots * (self.columns * FLOAT + INT) + sum(self.boxes) * 6 * FLOAT

    def kernels(self, ordered: bool = True) -> dict[str, int]:
        """Return the bytes of the kernels that fill the blocks. ordered: in Morton order."""
        points, keys = self.points * self.columns * FLOAT, self.points * LONG
        must = {
            "fill_slots": points + keys * ordered + self.slots * (self.columns * FLOAT + INT),
            "fill_boxes": self.points * 3 * FLOAT + sum(self.boxes) * 6 * FLOAT + sum(self.boxes[:2]) * 6 * FLOAT,
        }
        return {"find_bounds": points, "make_keys": points + keys, **must} if ordered else must


def search_cases(points: int = POINTS) -> list[Case]:
    """Return the operations of the tokenizers."""
    event, blocks, centres = cloud(points), Blocks(points), points // 10
    queries, point = event[:, :centres], 3 * FLOAT
    counts = {"count_inside": blocks.searched + points * (point + LONG)}
    sampling = {
        "prepare": blocks.slots * (3 * INT + FLOAT) + blocks.boxes[0] * (FLOAT + INT),
        "sample": blocks.searched + blocks.slots * (2 * FLOAT + INT) + centres * LONG,
    }
    suppression = {
        "make_priorities": points * (2 * LONG + INT),
        "suppress": blocks.searched + points * (point + 2 * LONG + 2 * INT),
        "compact": points * (INT + LONG),
    }
    return [
        Case(
            "farthest_point_sampling",
            lambda: farthest_point_sampling(event, None, centres),
            blocks.kernels() | sampling,
        ),
        Case(
            "knn",
            lambda: knn(queries, event, None, None, TOKEN),
            blocks.kernels() | {"find_neighbors": blocks.searched + centres * (point + TOKEN * (FLOAT + LONG))},
        ),
        Case(
            "ball_query",
            lambda: ball_query(queries, event, RADIUS, 256),
            blocks.kernels(ordered=False) | {"find_inside": blocks.searched + centres * (point + 256 * LONG)},
        ),
        Case("ball_count", lambda: ball_count(event, event, 2 * RADIUS * OVERLAP), blocks.kernels() | counts),
        Case(
            "cnms",
            lambda: centrality_nms(event, None, RADIUS, OVERLAP),
            blocks.kernels() | counts | suppression,
        ),
    ]


def loss_cases(points: int = POINTS) -> list[Case]:
    """Return the loss of Point-MAE."""
    x, y = (t.clone().requires_grad_() for t in tokens(points))
    both = x.shape[0] * x.shape[1] * 2
    nearest, point = FLOAT + LONG, 3 * FLOAT
    return [
        Case(
            "chamfer_distance",
            lambda: chamfer_distance(x, y).sum().backward(),
            {"find_partner": both * (2 * point + nearest), "gather_gradient": both * (3 * point + 2 * nearest)},
        )
    ]


def feature_cases(points: int = POINTS // 10) -> list[Case]:
    """Return the operations on hand-made features of points; of fewer points, as the emulator is slow."""
    x, values = random(points, FEATURES, True), random(FEATURES * KNOTS, WIDTH, True).view(FEATURES, KNOTS, WIDTH)
    inputs, table, outputs = FLOAT * x.numel(), FLOAT * values.numel(), FLOAT * points * WIDTH
    partial = table * -(-points // max(256, -(-points // 64)))  # as piecewise.cu cuts the points into slices
    functions = {
        "interpolate": inputs + table + outputs,
        "differentiate": 2 * inputs + table + outputs,
        "add_slices": inputs + outputs + 2 * partial,  # each sum is read again
        "merge_slices": partial + table,
    }
    event, ptr = torch.cat([cloud(points)[0], random(points, 1)], 1), torch.tensor([0, points])
    blocks, labels = Blocks(points, columns=4), points * LONG
    scales = len(NEIGHBOURS)
    covariances = points * 6 * DOUBLE * (2 * scales - 1)  # each is written, and read for the next scale
    written = points * 2 * SECTOR  # eight or nine neighbouring columns of a row
    geometry = {
        "describe_neighbours": scales * (blocks.searched + written) + covariances,
        "describe_balls": blocks.searched + written,
    }
    marks = sum(blocks.boxes) * INT
    links = {
        "separate": labels,
        "link_points": blocks.searched + marks + 2 * labels,
        "join_boxes": 2 * SECTOR + marks,  # no box lies within the distance of links
        "name_sets": 2 * labels,
    }
    return [
        Case("piecewise_linear", lambda: piecewise_linear(x, values, -2.5, 2.5).sum().backward(), functions),
        Case("local_geometry", lambda: local_geometry(event, ptr), blocks.kernels() | geometry),
        Case("components", lambda: components(event, ptr, LINK), blocks.kernels() | links),
    ]


def mix_cases(jets: int = JETS) -> list[Case]:
    """Return the 2 -> 2 layer and the message of PELICAN. Partial sums of the blocks are not counted as needed."""
    index = pairs(jets)
    nodes, all_pairs, sizes = index.num_nodes, index.num_pairs, (MESSAGE, MIXED)
    x, even, odd = random(all_pairs, MESSAGE, True), random(*sizes, True), random(*sizes, True)
    vectors = [random(nodes, MIXED, True) for _ in "uvw"]
    mixed, weight, bias = random(all_pairs, MIXED, True), random(*sizes, True), random(1, MESSAGE, True)[0]
    wide, narrow = FLOAT * all_pairs * MESSAGE, FLOAT * all_pairs * MIXED
    matrix, sums = FLOAT * MESSAGE * MIXED, 3 * FLOAT * nodes * MIXED
    return [
        Case(
            "pair_mix",
            lambda: pair_mix(x, even, odd, vectors, index, 0.01).sum().backward(),
            {
                "multiply_tiles<MixForward>": wide + narrow + 2 * matrix + sums,
                "multiply_tiles<MixBackward>": 2 * narrow + wide + 2 * matrix,
                "reduce_nodes<Activated>": 2 * narrow + sums,
                "add_outer_products": wide + 2 * narrow,
                "add_partial_sums": 2 * matrix,
            },
        ),
        Case(
            "message",
            lambda: message(mixed, weight, bias, 0.01).values.sum().backward(),
            {
                "multiply_tiles<MessageForward>": narrow + wide + matrix,
                "merge_moments": 2 * FLOAT * MESSAGE,
                "multiply_tiles<MessageBackward>": 2 * wide + narrow + matrix,
                "add_outer_products": 2 * wide + narrow,
                "add_partial_sums": matrix,
            },
        ),
    ]


def jet_cases() -> list[Case]:
    """Return the other operations of PELICAN."""
    nodes, all_pairs, ptr = pairs().num_nodes, pairs().num_pairs, pairs().node_ptr
    rows = FLOAT * nodes
    return [
        Case(
            "pair_reduce",
            lambda: pair_reduce(random(all_pairs, MESSAGE), pairs()),
            {"reduce_nodes<Stored>": FLOAT * MESSAGE * all_pairs + 3 * rows * MESSAGE},
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
