"""Speeds: copy bandwidth, each operator against it and against plain PyTorch and other libraries, PELICAN's step."""

import importlib
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.gpu.machine import seconds
from bench.gpu.operators import on
from bench.gpu.report import Report, Skipped
from bench.kernels import OVERLAP, QUERY_RADIUS, RADIUS, lartpc_cloud
from bench.presets import pelican_preset
from puffin.layers.symmetries import toy_momenta
from puffin.ops import library
from puffin.ops.pair_index import PairIndex

NAMES = ("puffin", "dense", "pelican-lite")


def copy_bandwidth(device: torch.device, quick: bool) -> float:
    """Measure the bytes per second that a copy reads and writes."""
    source = torch.rand((1 << 22) if quick or device.type == "cpu" else (1 << 28), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def inputs(device: torch.device, quick: bool) -> dict[str, tuple]:
    """Arguments of the operators at the sizes of training: LArTPC events, and jets of the 48k preset."""
    events, size, jets = (2, 500, 8) if quick else (4, 10_000, 100)
    points = torch.stack([torch.from_numpy(lartpc_cloud(size, seed)) for seed in range(events)])
    lengths = torch.full((events,), size)
    samples = min(512, size)
    seeds = points[:, :samples].contiguous()
    both, few = (points, points, lengths, lengths), (seeds, points, torch.full_like(lengths, samples), lengths)
    start = torch.zeros_like(lengths)
    groups, sizes = torch.rand(64 * events, 32, 3), torch.full((64 * events,), 32)
    out = {
        "farthest_point_sampling": (points, lengths, start + samples, start, samples),
        "knn": (*both, 5),
        "ball_count": (*both, QUERY_RADIUS),
        "ball_query": (*few, RADIUS, 256),
        "cnms": (points, lengths, 2 * RADIUS * OVERLAP),
        "chamfer": (groups, groups.flip(1) + 0.1, sizes, sizes),
    }
    return {name: on(device, args) for name, args in (out | _of_jets(jets)).items()}


def _of_jets(jets: int) -> dict[str, tuple]:
    counts = torch.full((jets,), 50)
    index = PairIndex(counts, torch.device("cpu"))
    pairs, nodes, where = index.num_pairs, index.num_nodes, (index.node_ptr, index.upper_ptr)
    x, y, even = torch.randn(pairs, 35), torch.randn(pairs, 60), torch.randn(35, 60)
    u = torch.randn(nodes, 60)
    narrow = torch.randn(nodes, 35)
    return {
        "pair_reduce": (x, None, *where, nodes),
        "pair_expand": (narrow, narrow, narrow, None, None, *where, index.num_upper),
        "pair_mix": (x, even, even, u, u, u, *where, 0.01),
        "pair_mix_backward": (y, y, x, even, even, *where, nodes, 0.01),
        "message": (y, torch.randn(35, 60), torch.randn(35), 0.01),
        "segment_sum": (y, torch.cat([counts.new_zeros(1), (counts * counts).cumsum(0)])),
        "segment_extremum": (y, torch.cat([counts.new_zeros(1), (counts * counts).cumsum(0)]), True),
    }


def operator(name: str, args: tuple, device: torch.device, bandwidth: float, budget: float) -> str:
    """Time an operator and its oracle; bytes are those of all inputs and results, once."""
    kernel, oracle = getattr(torch.ops.puffin, name), library.oracle_of(name)
    tensors = [x for x in tree_leaves((args, kernel(*args))) if isinstance(x, Tensor)]
    moved = sum(x.nbytes for x in {id(x): x for x in tensors}.values())
    ours = seconds(lambda: kernel(*args), device, budget)
    plain = seconds(lambda: oracle(*args), device, budget)
    text = f"{ours * 1e3:9.3f} ms {moved / ours / 1e9:8.1f} GB/s {moved / ours / bandwidth:6.1%} of a copy"
    others = [
        f"{label} x{seconds(function, device, budget) / ours:.2f}" for label, function in peers(name, args).items()
    ]
    return ", ".join([f"{text}; plain PyTorch x{plain / ours:.2f}", *others])


def peers(name: str, args: tuple) -> dict[str, Callable]:
    """Return what other libraries that are installed have for the operator, by their names."""
    found: dict[str, Callable] = {}
    pytorch3d, cluster = _optional("pytorch3d.ops"), _optional("torch_cluster")
    if pytorch3d is not None:
        found |= {
            "farthest_point_sampling": {
                "pytorch3d": lambda: pytorch3d.sample_farthest_points(args[0], args[1], K=int(args[4]))
            },
            "knn": {"pytorch3d": lambda: pytorch3d.knn_points(args[0], args[1], args[2], args[3], K=args[4])},
            "ball_query": {
                "pytorch3d": lambda: pytorch3d.ball_query(
                    args[0], args[1], args[2], args[3], K=args[5], radius=args[4], return_nn=False
                )
            },
        }.get(name, {})
    if cluster is not None and name in ("farthest_point_sampling", "knn"):
        points = args[0].flatten(0, 1)
        event = torch.arange(len(args[0]), device=points.device).repeat_interleave(args[0].shape[1])
        if name == "knn":
            found["torch_cluster"] = lambda: cluster.knn(points, points, args[4], event, event)
        else:
            found["torch_cluster"] = lambda: cluster.fps(points, event, args[4] / args[0].shape[1], random_start=False)
    return found


def _optional(name: str):
    try:
        return importlib.import_module(name)
    except Exception:
        return None


def _pelican():
    """Import bench/pelican.py, which removes the first entry of sys.path because it is a script."""
    sys.path.insert(0, "")
    return importlib.import_module("bench.pelican")


def pelican_step(name: str, device: torch.device, quick: bool) -> float:
    """Time a training step of an implementation: the 48k preset, 100 jets of 2 to 20 particles twice over."""
    bench = _pelican()
    needed = bench.NEEDS.get(name)
    if needed and importlib.util.find_spec(needed[0]) is None:
        raise Skipped(f"not installed: {needed[1]}")
    torch.manual_seed(0)
    implementation = bench.BUILDERS[name](pelican_preset("3k" if quick else "48k"))
    batch = padded_jets(8 if quick else 100)
    moved = tuple(x.to(device) for x in implementation.collate(batch.fourmomenta))
    implementation.network.to(device)
    optimizer = torch.optim.AdamW(implementation.network.parameters(), lr=1e-3)
    ready = bench.Implementation(implementation.network, lambda jets: moved, implementation.surroundings)
    step = bench.make_step(ready, batch._replace(labels=batch.labels.to(device)), optimizer)
    return seconds(step, device, 0.1 if quick else 3.0)


def padded_jets(number: int):
    """Make jets of about 50 particles at most, padded with zeros."""
    momenta, lengths = toy_momenta(number * 4, torch.Generator().manual_seed(0))
    sizes = lengths.view(number, 4).sum(1)  # four draws of 2 to 20 particles make a jet
    jets = torch.nn.utils.rnn.pad_sequence(momenta.float().split(sizes.tolist()), batch_first=True)
    return _pelican().Batch(jets, torch.arange(number) % 2)


def check(report: Report, device: torch.device, quick: bool) -> None:
    """Add all speeds."""
    report.section("Speeds of operators (x: time of the other / time of Puffin)")
    measured: dict[str, float] = {}

    def copy() -> str:
        measured["copy"] = copy_bandwidth(device, quick)
        return f"{measured['copy'] / 1e9:.1f} GB/s"

    report.check("copy", copy)
    for name, args in inputs(device, quick).items():
        report.check(
            name,
            lambda name=name, args=args: operator(
                name, args, device, measured.get("copy", float("nan")), 0.05 if quick else 0.5
            ),
        )
    report.section(f"A training step of PELICAN, {'3k preset, 8' if quick else '48k preset, 100'} jets")
    times: dict[str, float] = {}

    def implementation(name: str) -> str:
        times[name] = pelican_step(name, device, quick)
        ratio = f", x{times[name] / times['puffin']:.2f}" if "puffin" in times else ""
        return f"{times[name] * 1e3:.2f} ms{ratio}"

    for name in NAMES:
        report.check(name, lambda name=name: implementation(name))
