"""Checks of the operators: against their oracles, golden vectors, numerical gradients; waits, and CUDA graphs."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.gpu.machine import need_cuda, no_waits
from bench.gpu.report import Report
from puffin.ops import library
from puffin.ops.chamfer import chamfer_distance
from puffin.ops.cnms import centrality_nms
from puffin.ops.fps import farthest_point_sampling
from puffin.ops.messages import message
from puffin.ops.neighbors import ball_count, ball_query, knn
from puffin.ops.signed_power import signed_power
from tests.ops import samples as of_operators
from tests.ops.clouds import NAMES, cloud, golden
from tests.ops.samples import DIFFERENTIABLE, samples

OPERATORS = [name for name in of_operators.OPERATORS if not library.is_cpu_only(name)]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
SIZES = ((7, 0, 4), (1,), (0, 0), (), (70, 3, 40, 1))
QUICK = ("random", "lattice_ties", "some_empty", "all_equal")


def on(device: torch.device, args: tuple) -> tuple:
    """Move the tensors among the arguments."""
    return tree_map_only(torch.Tensor, lambda x: x.to(device), args)


def cases(name: str, quick: bool) -> Iterator[tuple]:
    """Yield arguments of an operator: small samples, and clouds with ties, empty events, padding and outliers."""
    for dtype in TOLERANCE:
        for sizes in SIZES:
            yield samples(dtype, sizes)[name]
        for kind in QUICK if quick else NAMES:
            points, lengths = cloud(kind, dtype)
            some = points[:, : max(1, points.shape[1] // 2)]
            both = (some, points, lengths.clamp(max=some.shape[1]), lengths)
            count, start = torch.full_like(lengths, 40), torch.zeros_like(lengths)
            of_clouds = {
                "farthest_point_sampling": (points, lengths, count, start, 40),
                "knn": (*both, 9),
                "ball_count": (*both, 1.5),
                "ball_query": (*both, 1.5, 12),
                "cnms": (points, lengths, 1.5),
                "chamfer": both,
            }
            if name in of_clouds:
                yield of_clouds[name]


def compare(name: str, got: list, want: list) -> None:
    """Raise AssertionError unless integers are equal and numbers agree within the rounding of their dtype."""
    for position, (a, b) in enumerate(zip(got, want, strict=True)):
        a = a.cpu()
        assert a.shape == b.shape and a.dtype == b.dtype, (
            f"result {position}: {a.shape} {a.dtype}, not {b.shape} {b.dtype}"
        )
        if not b.is_floating_point() or name == "knn":
            differ = int((a != b).sum())
            assert not differ, f"result {position}: {differ} of {b.numel()} entries differ"
        elif b.numel():
            torch.testing.assert_close(
                a, b, rtol=TOLERANCE[b.dtype], atol=TOLERANCE[b.dtype] * float(b.nan_to_num(0, 0, 0).abs().max())
            )


def equals_oracle(name: str, device: torch.device, quick: bool) -> str:
    """Compare the operator on the device with its oracle on the CPU."""
    number = 0
    for args in cases(name, quick):
        number += 1
        want = tree_leaves(library.oracle_of(name)(*args))
        compare(name, tree_leaves(getattr(torch.ops.puffin, name)(*on(device, args))), want)
    return f"{number} inputs"


def gradient(name: str, device: torch.device) -> str:
    """Compare the derivative with finite differences, in float64."""
    functions: dict[str, tuple[Callable, tuple]] = {
        "message": (lambda *a: tuple(message(*a, 0.1)), samples(torch.float64, (3, 1))["message"][:3]),
        "signed_power": (
            lambda x, a: signed_power(x, a, 1.0, True),
            (torch.rand(5, 3).double() + 1, torch.rand(3).double()),
        ),
    }
    operator, args = functions.get(name) or (getattr(torch.ops.puffin, name), samples(torch.float64, (3, 0, 2))[name])
    args = on(device, args)
    leaves = [x for x in args if isinstance(x, Tensor) and x.is_floating_point()]
    if name in ("pair_reduce", "pair_expand"):  # no gradient flows into the weights
        leaves = [x for x in leaves if x.dim() > 1]
    for leaf in leaves:
        leaf.requires_grad_()

    def function(*_):
        return tuple(x for x in tree_leaves(operator(*args)) if x.is_floating_point())

    assert torch.autograd.gradcheck(function, leaves, nondet_tol=1e-10)  # plain PyTorch adds in any order
    return f"{len(leaves)} inputs"


def golden_points(device: torch.device) -> str:
    """Compare with the published kernels: exact indices of points."""
    g = {name: x.to(device) if x.dim() else x for name, x in golden().items()}
    points, lengths, radius, overlap = g["points"], g["lengths"], float(g["radius"]), float(g["cnms_overlap"])
    index = farthest_point_sampling(points, lengths, 200)
    assert torch.equal(index, g["fps_idx"]), "farthest point sampling"
    queries = points.gather(1, index[..., None].expand(-1, -1, 4))
    assert torch.equal(ball_query(queries, points, radius, 24, None, lengths), g["ball_query_idx"]), "ball query"
    assert torch.equal(knn(queries, points, None, lengths, 9)[1], g["knn_idx"]), "nearest neighbours"
    centres = centrality_nms(points, lengths, radius, overlap)
    assert torch.equal(centres.lengths, g["cnms_lengths"]), "number of centres"
    counts = ball_count(points, points, 2 * radius * overlap, lengths, lengths)
    for event, (number, size) in enumerate(zip(centres.lengths.tolist(), lengths.tolist(), strict=True)):
        assert torch.equal(centres.index[event, :number], g["cnms_idx"][event, :number]), f"centres of event {event}"
        assert torch.equal(counts[event, :size], g["cnms_num_neighbors"][event, :size]), f"counts of event {event}"
    each = chamfer_distance(*(g[f"chamfer_{k}"] for k in ("x", "y", "x_lengths", "y_lengths")), "none")
    torch.testing.assert_close(each, g["chamfer_each"], rtol=1e-6, atol=0)
    return "tests/golden/polarmae/kernels.npz"


def call(name: str, args: tuple) -> None:
    """Run the operator, and its derivative if it has one."""
    results = tree_leaves(getattr(torch.ops.puffin, name)(*args))
    if name in DIFFERENTIABLE:
        sum(x.sum() for x in results if x.requires_grad).backward()


def _differentiable(name: str, device: torch.device) -> tuple:
    args = on(device, samples(torch.float32, (40, 0, 25))[name])
    learn = name in DIFFERENTIABLE
    return tree_map_only(
        torch.Tensor, lambda x: x.requires_grad_(learn and x.is_floating_point() and x.dim() > 1), args
    )


def does_not_wait(name: str, device: torch.device) -> str | None:
    """Run the operator and its derivative while waiting for the GPU is an error."""
    args = _differentiable(name, device)
    call(name, args)
    need_cuda(device)
    with no_waits():
        call(name, args)
    return None


def in_cuda_graph(device: torch.device) -> str:
    """Capture all operators and derivatives in a graph; its replay must give the numbers of the first run."""
    args = {name: _differentiable(name, device) for name in OPERATORS}

    def run() -> list[Tensor]:
        results = []
        for name in OPERATORS:
            out = tree_leaves(getattr(torch.ops.puffin, name)(*args[name]))
            results += [x.detach().clone() for x in out]
            if name in DIFFERENTIABLE:
                leaves = [x for x in args[name] if isinstance(x, Tensor) and x.requires_grad]
                gradients = torch.autograd.grad(sum(x.sum() for x in out if x.requires_grad), leaves)
                results += [x.clone() for x in gradients]  # a gradient may be an expanded number
        return results

    compare_replay(run, device)
    return f"{len(OPERATORS)} operators"


def compare_replay(run: Callable[[], list[Tensor]], device: torch.device) -> None:
    """Capture `run` after three runs on a side stream, replay it twice, and compare with a run without a graph.

    Raises Skipped on a CPU, after a run."""
    if device.type != "cuda":
        run()
    need_cuda(device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            want = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    for _ in range(2):
        for tensor in got:
            tensor.zero_()
        graph.replay()
        torch.cuda.synchronize()
        for position, (a, b) in enumerate(zip(got, want, strict=True)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, k=position: f"result {k}: {text}")


def check(report: Report, device: torch.device, quick: bool) -> None:
    """Add all checks of operators."""
    report.section("Operators against their oracles (exact indices)")
    for name in OPERATORS:
        report.check(name, lambda name=name: equals_oracle(name, device, quick))
    report.check("golden vectors of points", lambda: golden_points(device))
    report.section("Gradients against finite differences (float64)")
    for name in sorted({*DIFFERENTIABLE.intersection(OPERATORS), "message", "signed_power"}):
        report.check(name, lambda name=name: gradient(name, device))
    report.section("Operators do not make the host wait")
    for name in OPERATORS:
        report.check(name, lambda name=name: does_not_wait(name, device))
    report.check("all in a CUDA graph, replayed", lambda: in_cuda_graph(device))
