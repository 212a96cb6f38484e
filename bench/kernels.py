"""Compare the speed of the point ops with other libraries, on clouds that resemble LArTPC events.

    python3 bench/kernels.py

The other libraries are fpsample, torch-quickfps, pykdtree and scipy, if they are installed, and brute force in
PyTorch. Each time is the minimum of repetitions in which the libraries alternate, so that other load on the machine
affects all of them. A ratio above 1 means that Puffin is faster.
"""

import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np
import torch

from puffin.ops.chamfer import chamfer_distance
from puffin.ops.cnms import centrality_nms
from puffin.ops.fps import farthest_point_sampling
from puffin.ops.geometry import components, local_geometry
from puffin.ops.neighbors import ball_count, ball_query, knn
from puffin.settings.parser import OneLineParser
from puffin.settings.types import number

SIZES = {"3k": 3_000, "10k": 10_000, "50k": 50_000, "1M": 1_000_000}
SAMPLES = {"3k": 512, "10k": 1024, "50k": 2048, "1M": 4096}
RADIUS, OVERLAP = 5.0, 0.72  # voxels
QUERY_RADIUS = 2 * RADIUS * OVERLAP


def lartpc_cloud(size: int, seed: int = 0) -> np.ndarray:
    """Make (size, 3) float32 distinct voxels of scattering tracks, showers and single deposits, ordered by cluster.

    The volume is one detector module (768^3 voxels) up to 50k points, and grows with the number of points beyond.
    """
    rng = np.random.default_rng(seed)
    extent = 768 * max(1.0, (size / 50_000) ** (1 / 3))
    voxels, seen = [], set()
    while len(voxels) < size:
        start, kind = rng.uniform(0, extent, 3), rng.choice(3, p=[0.5, 0.3, 0.2])
        if kind == 0:  # a track: a slightly curved line, one or two voxels thick
            steps = int(rng.integers(100, 900))
            bends = np.cumsum(rng.normal(0, 0.03, (steps, 3)), 0) + rng.normal(size=3)
            line = start + np.cumsum(bends / np.linalg.norm(bends, axis=1, keepdims=True), 0)
            cloud = np.repeat(line, 2, 0) + rng.normal(0, 0.5, (2 * steps, 3))
        elif kind == 1:  # a shower: depth from a gamma distribution, width growing with depth, in clumps
            axis = rng.normal(size=3)
            depth = rng.gamma(3, 25, (int(rng.integers(20, 120)), 1))
            seeds = start + depth * axis / np.linalg.norm(axis) + rng.normal(size=(len(depth), 3)) * depth * 0.08
            cloud = np.repeat(seeds, 8, 0) + rng.normal(0, 1.5, (8 * len(seeds), 3))
        else:  # single low-energy deposits
            cloud = rng.uniform(0, extent, (int(rng.integers(5, 40)), 3))
        for voxel in map(tuple, np.floor(cloud).astype(int)):
            if voxel not in seen and min(voxel) >= 0 and max(voxel) < extent:
                seen.add(voxel)
                voxels.append(voxel)
    return np.array(voxels[:size], dtype=np.float32)


def best_times(functions: dict[str, Callable], budget: float) -> dict[str, float]:
    """Return the minimum time [s] of each function; the functions alternate for `budget` seconds."""
    best = dict.fromkeys(functions, float("inf"))
    begin, repeats = time.perf_counter(), 0
    while repeats < 3 or (time.perf_counter() - begin < budget and repeats < 50):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
        repeats += 1
        if repeats == 1 and time.perf_counter() - begin > budget:
            break
    return best


def optional(name: str):
    """Import a module; return None and print a note if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"# {name} is not installed: no ratio against it")
        return None


def brute_ball_query(points: torch.Tensor, queries: torch.Tensor, r2: float, k: int) -> torch.Tensor:
    """Find the first k indices within the radius, from the distances of all pairs, 1024 queries at a time."""
    rows = []
    order = torch.arange(points.shape[0], dtype=torch.int32)
    for block in queries.split(1024):
        inside = torch.cdist(block, points).square_() < r2
        rows.append(torch.where(inside, order, points.shape[0]).topk(min(k, points.shape[0]), largest=False).values)
    return torch.cat(rows)


def brute_cnms(points: torch.Tensor, r2: float) -> list[int]:
    """Suppress greedily with a padded table of neighbours, made by brute force."""
    inside = [torch.cdist(block, points).square_() < r2 for block in points.split(1024)]
    counts = torch.cat([block.sum(1) for block in inside])
    table = brute_ball_query(points, points, r2, int(counts.max())).numpy()
    alive = np.ones(len(points) + 1, dtype=bool)
    centres = []
    for i in counts.sort(descending=True, stable=True).indices.tolist():
        if alive[i]:
            centres.append(i)
            alive[table[i]] = False
    return sorted(centres)


def rows_for(label: str, cloud: np.ndarray, peers: dict) -> dict[str, dict[str, Callable]]:
    """Return the functions to compare, for each op: {"puffin": function, library: function}."""
    samples, large = SAMPLES[label], len(cloud) > 100_000
    x = torch.from_numpy(cloud)
    batch = x[None]
    centres = centrality_nms(batch, None, RADIUS, OVERLAP)
    with_energies, ptr = torch.cat([x, torch.ones(len(x), 1)], dim=1), torch.tensor([0, len(x)])
    queries = batch[:, centres.index[0, : int(centres.lengths)]]
    rows = {
        "fps": {"puffin": lambda: farthest_point_sampling(batch, None, samples)},
        "knn k=5": {"puffin": lambda: knn(batch, batch, None, None, 5)},
        "ball count": {"puffin": lambda: ball_count(batch, batch, QUERY_RADIUS)},
        "ball query K=256": {"puffin": lambda: ball_query(queries if large else batch, batch, RADIUS, 256)},
        "cnms": {"puffin": lambda: centrality_nms(batch, None, RADIUS, OVERLAP)},
        "local geometry": {"puffin": lambda: local_geometry(with_energies, ptr)},
        "components": {"puffin": lambda: components(with_energies, ptr, 1.8)},
        "chamfer": {"puffin": lambda: chamfer_distance(batch, batch + 0.4)},
    }
    if peers["fpsample"]:
        for height in (5, 7, 9):
            rows["fps"][f"fpsample kdline h={height}"] = lambda h=height: peers["fpsample"].bucket_fps_kdline_sampling(
                cloud, samples, h=h, start_idx=0
            )
    if peers["torch_quickfps"]:
        for height in (None, 7):
            rows["fps"][f"quickfps h={height}"] = lambda h=height: peers["torch_quickfps"].sample_idx(
                batch, samples, h=h, start_idx=0
            )
    if peers["pykdtree.kdtree"]:
        rows["knn k=5"]["pykdtree"] = lambda: peers["pykdtree.kdtree"].KDTree(cloud).query(cloud, k=5)
    if peers["scipy.spatial"]:
        tree = peers["scipy.spatial"].cKDTree
        rows["knn k=5"]["cKDTree"] = lambda: tree(cloud).query(cloud, k=5, workers=-1)

        def counting():
            return tree(cloud).query_ball_point(cloud, QUERY_RADIUS, return_length=True, workers=-1)

        rows["ball count"]["cKDTree"] = rows["cnms"]["cKDTree counting alone"] = counting
    if len(cloud) <= 10_000:
        rows["ball query K=256"]["brute force"] = lambda: brute_ball_query(x, x, RADIUS**2, 256)
        rows["cnms"]["brute force"] = lambda: brute_cnms(x, QUERY_RADIUS**2)
    return rows


def peak_memory(op: str, label: str) -> int:
    """Return the peak resident memory [MB] of a new process that makes the cloud and its centres and runs one op."""
    code = (
        f"import bench.kernels as b; c = b.lartpc_cloud(b.SIZES[{label!r}]);"
        f"b.rows_for({label!r}, c, dict.fromkeys(b.PEERS))[{op!r}]['puffin']();"
        "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    return int(done.stdout.split()[-1])


PEERS = ("fpsample", "torch_quickfps", "pykdtree.kdtree", "scipy.spatial")


def main() -> None:
    """Measure each op for each size, and print one row each."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="numbers of points of the clouds (default: all)")
    add(
        "--ops",
        nargs="+",
        metavar="OP",
        help="ops to measure, by the beginnings of their names: fps knn (default: all)",
    )
    add(
        "--budget",
        type=number(minimum=0),
        default=3.0,
        metavar="S",
        help="time for the repetitions of each row, in seconds (default: %(default)g)",
    )
    add("--memory", action="store_true", help="also measure the peak memory of each op at the last size (default: no)")
    args = parser.parse_args()
    peers = {name: optional(name) for name in PEERS}
    print(f"# PyTorch {torch.__version__}, {torch.get_num_threads()} threads; ratio = peer / puffin")
    for label in args.sizes:
        for op, functions in rows_for(label, lartpc_cloud(SIZES[label]), peers).items():
            if args.ops and not op.startswith(tuple(args.ops)):
                continue
            times = best_times(functions, args.budget)
            ours = times.pop("puffin")
            ratios = "  ".join(f"{name} {t * 1e3:.2f} ms x{t / ours:.2f}" for name, t in times.items())
            print(f"{label:>4} {op:<17} {ours * 1e3:9.2f} ms  {ratios}", flush=True)
            if args.memory and label == args.sizes[-1]:
                print(
                    f"     {op:<17} {peak_memory(op, label):>6} MB peak of a process that runs only this op", flush=True
                )


if __name__ == "__main__":
    main()
