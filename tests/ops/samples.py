"""Arguments for every operator of `torch.ops.puffin`, for tests that concern all of them."""

import importlib
import pkgutil
import re
from pathlib import Path

import torch
from torch import Tensor

from puffin import ops
from puffin.ops.pair_index import PairIndex

SOURCE = Path(__file__).resolve().parents[2] / "csrc" / "puffin.cpp"
DIFFERENTIABLE = {
    "chamfer",
    "pair_expand",
    "pair_mix",
    "pair_reduce",
    "piecewise_linear",
    "segment_attention",
    "segment_expand",
    "segment_extremum",
    "segment_sum",
    "sparse_conv",
}


def stated_schemas() -> set[str]:
    """The schemas of csrc/puffin.cpp."""
    source = re.sub(r'"\s+"', "", SOURCE.read_text(encoding="utf-8"))
    return set(re.findall(r'm\.def\(\s*"([^"]+)"', source))


for _module in pkgutil.iter_modules(ops.__path__):
    if _module.name != "__main__":
        importlib.import_module(f"puffin.ops.{_module.name}")  # defines its operators
OPERATORS = sorted(schema.split("(")[0] for schema in stated_schemas())


def samples(dtype: torch.dtype = torch.float32, lengths: tuple[int, ...] = (7, 0, 4)) -> dict[str, tuple]:
    """Arguments by operator, on the CPU; lengths: points, nodes or rows of each event."""
    sizes = torch.tensor(lengths, dtype=torch.int64)
    batch, most = len(lengths), max([0, *lengths])

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype)

    points, others = make(batch, most, 3), make(batch, most + 2, 3)
    count, start = torch.full_like(sizes, 3), torch.zeros_like(sizes)
    both = (points, others, sizes, sizes + 2)
    out = {
        "farthest_point_sampling": (points, sizes, count, start, 3),
        "knn": (*both, 3),
        "ball_count": (*both, 0.7),
        "ball_query": (*both, 0.7, 3),
        "cnms": (points, sizes, 0.7),
        "chamfer": both,
    }
    index_x = torch.zeros(batch, most, dtype=torch.int64)
    index_y = torch.zeros(batch, most + 2, dtype=torch.int64) if most else torch.full((batch, most + 2), -1)
    gradients = make(batch, most), make(batch, most + 2)
    return out | {
        "chamfer_backward": (*gradients, points, others, index_x, index_y),
        **_of_pairs(make, sizes),
        **_of_rows(make, sizes),
        **_of_voxels(make, sizes),
        **_of_layers(make, sizes),
    }


def _of_pairs(make, sizes: Tensor) -> dict[str, tuple]:
    index = PairIndex(sizes, torch.device("cpu"))
    nodes, uppers, total = index.num_nodes, index.num_upper, index.num_pairs
    where = (index.node_ptr, index.upper_ptr)
    x, y, even, odd = make(total, 5), make(total, 4), make(5, 4), make(5, 4)
    u, v, w = (make(nodes, 4) for _ in range(3))
    weights = make(nodes)
    return {
        "pair_reduce": (x, weights, *where, nodes),
        "pair_expand": (u, v, w, weights, make(total, 4), *where, uppers),
        "pair_mix": (x, even, odd, u, v, w, *where, 0.1),
        "pair_mix_backward": (make(total, 4), y, x, even, odd, *where, nodes, 0.1),
        **_of_embedding(make, index),
        "message": (x, make(4, 5), make(4), 0.1),
        "message_backward": (make(total, 4), y, x, make(4, 5), make(4), make(4), make(4), 0.1),
        "pair_message": (x, make(4, 5), make(4), 0.1, weights, *where, nodes),
        "pair_message_backward": (
            *(make(total, 4), y, x, make(4, 5), make(4), make(4), make(4)),
            *(u, v, w, weights, *where, 0.1),
        ),
    }


def _of_embedding(make, index: PairIndex) -> dict[str, tuple]:
    x, nodes = make(index.num_nodes + index.num_upper, 2), (make(index.num_nodes, 3) for _ in range(3))
    args = (x, make(5, 2), make(5), make(5).abs() + 0.5, *nodes, index.node_ptr, index.upper_ptr, 1.0, True, 0.1)
    return {
        "pair_embed": (*args, False),
        "pair_embed_backward": (make(index.num_pairs, 8), *args, True),
    }


def _of_rows(make, sizes: Tensor) -> dict[str, tuple]:
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    rows, segments = make(int(ptr[-1]), 3), make(len(sizes), 3)
    extremum = torch.ops.puffin.segment_extremum(rows, ptr, True)
    positions = make(len(rows), 4)
    qkv, attention = make(len(rows), 12), (ptr, torch.tensor(-(2**40) - 3), 2, 0.4)
    out, lse = torch.ops.puffin.segment_attention(qkv, *attention)
    return {
        "local_geometry": (positions, ptr, [1, 3], [0.7]),
        "components": (positions, ptr, 0.7),
        "segment_sum": (rows, ptr),
        "segment_expand": (segments, ptr, len(rows)),
        "segment_extremum": (rows, ptr, True),
        "segment_extremum_backward": (segments, extremum, rows, ptr),
        "segment_attention": (qkv, *attention),
        "segment_attention_backward": (make(len(rows), 4), qkv, out, lse, *attention),
    }


def _of_voxels(make, sizes: Tensor) -> dict[str, tuple]:
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    rows = torch.arange(int(ptr[-1]))
    coordinates = torch.stack([rows % 3, rows // 3 % 2, rows // 6], 1)
    neighbours = torch.ops.puffin.voxel_neighbours(coordinates, ptr)
    x = make(len(rows), 5)
    return {
        "voxel_neighbours": (coordinates, ptr),
        "sparse_conv": (x, make(27, 5, 4), neighbours, neighbours.flip(1)),
        "sparse_conv_weight": (x, make(len(rows), 4), neighbours),
    }


def _of_layers(make, sizes: Tensor) -> dict[str, tuple]:
    ptr, events = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), len(sizes)
    nodes, maps = int(ptr[-1]), [(-1, 0, -1, 0, 0), (-1, 0, -1, 0, 0), (0, 1, 1, 1, 0), (1, 0, 0, 0, 0)]
    maps += [(0, 4, 0, 0, 2), (2, 2, -1, 0, 1), (2, 3, 1, 1, 0)]
    quantities = [make(nodes, 3) for _ in range(3)]
    shared = make(3), make(3), make(len(maps), 3, 4), make(3, 2)
    multiplicity, weights = make(events, 1).abs() + 1, make(nodes)
    where = (weights, multiplicity, ptr, [number for m in maps for number in m], True, 5.0)
    factors = torch.ops.puffin.equivariant_nodes(quantities, *shared, make(4), make(4), *where)[3]
    grads = [make(nodes, 4) for _ in range(3)], make(3, 4), make(3, 4)
    low_rank = make(3, 6), make(4, 6), make(3, 4), make(3, 4)
    functions = make(nodes, 3), make(3, 5, 4), -1.5, 1.0
    index = PairIndex(sizes, torch.device("cpu"))
    blocks = (
        *([make(3, 5), make(3, 4)], [make(3), make(3)]),  # messages from 5 and from 4 channels
        *([make(3), make(3)], [make(3), make(3)]),  # scales and shifts
        *([make(len(maps), 3, 4) for _ in range(2)], [make(3, 2) for _ in range(2)]),
        *([make(4), make(4)], [make(4), make(4)]),
    )
    return {
        "pair_blocks": (make(index.num_pairs, 5), *blocks, *where[:3], index.upper_ptr, where[3], 0.1, 0.2, 5.0),
        "equivariant_nodes": (quantities, *shared, make(4), make(4), *where),
        "equivariant_nodes_backward": (*grads, factors, quantities, *shared, *where),
        "piecewise_linear": functions,
        "piecewise_linear_backward": (make(nodes, 4), *functions),
        "low_rank": low_rank,
        "low_rank_backward": (make(6, 3, 4), *low_rank),
    }
