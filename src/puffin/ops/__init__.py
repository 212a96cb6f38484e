"""Operations on point clouds, segments and pairs: a plain-PyTorch version of each, and compiled kernels behind them.

The functions below can be imported from here; each module is imported when one of its functions is first used.

>>> from puffin.ops import farthest_point_sampling
>>> import torch
>>> farthest_point_sampling(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]]), None, k=2)
tensor([[0, 2]])
"""

import importlib

_MODULES = {
    "attention": ("segment_attention",),
    "chamfer": ("chamfer_distance",),
    "cnms": ("centrality_nms",),
    "embedding": ("pair_embed",),
    "fps": ("farthest_point_sampling",),
    "geometry": ("component_geometry", "components", "local_geometry"),
    "neighbors": ("ball_count", "ball_query", "knn"),
    "pair_messages": ("pair_message",),
    "pairs": ("pair_expand", "pair_extremum", "pair_mix", "pair_reduce", "pair_sums"),
    "segments": ("segment_expand", "segment_extremum", "segment_sum"),
    "voxels": ("coarsen", "voxel_neighbours", "voxel_order"),
}
_MODULE_OF = {function: module for module, functions in _MODULES.items() for function in functions}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r} (functions: {', '.join(__all__)})")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
