"""Compare sparse convolutions with plain PyTorch and with the dense products that they contain.

    python3 bench/sparse_conv.py

The voxels are simulated LArTPC events (data/make_lartpc.py), repeated until a batch has the wanted size. Plain PyTorch
selects, multiplies and adds the rows of each of the 27 offsets, of existing neighbours only; the rows are known before.
The dense products are only the 27 products of `torch.mm`, of rows that lie together already. Each time is the minimum
of repetitions in which these three alternate, in seconds of all threads together. A ratio above 1 means that Puffin is
faster.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np
import torch
from lartpc.events import Recipe, simulate
from torch import Tensor

from puffin.ops.sparse_conv import sparse_conv
from puffin.ops.voxels import coarsen, voxel_neighbours, voxel_order
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer, number

SIZES = {"10k": 10_000, "100k": 100_000, "1M": 1_000_000}


def parse_args(argv=None):
    """Parse the flags."""
    parser = OneLineParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=["10k", "1M"], help="voxels of a batch (default: 10k 1M)")
    add("--channels", nargs="+", type=integer(1), default=[16, 64], help="channels, in and out (default: 16 64)")
    add("--bf16", action="store_true", help="store the features in bfloat16 (Puffin only)")
    add("--threads", type=integer(1), default=1, metavar="N", help="number of CPU threads (default: %(default)s)")
    add("--budget", type=number(0), default=10.0, help="seconds for each comparison (default: %(default)s)")
    return parser.parse_args(argv)


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    """Return the first `size` voxels of simulated events, (size, 3) int64 in Morton order, and ptr."""
    voxels = [
        np.unique(e.points[:, :3].astype(np.int64), axis=0) for e in simulate(32, Recipe(), np.random.default_rng(77))
    ]
    parts, total = [], 0
    while total < size:
        parts.append(voxels[len(parts) % len(voxels)][: size - total])
        total += len(parts[-1])
    ptr = torch.tensor([0, *np.cumsum([len(part) for part in parts])])
    coordinates = torch.from_numpy(np.concatenate(parts))
    return coordinates[voxel_order(coordinates, ptr)], ptr


def best_times(functions: dict[str, Callable], budget: float) -> dict[str, float]:
    """Return the minimum CPU time [s] of each function; the functions alternate for `budget` seconds."""
    best = dict.fromkeys(functions, float("inf"))
    begin, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - begin < budget:
        for name, function in functions.items():
            start = time.process_time()
            function()
            best[name] = min(best[name], time.process_time() - start)
        rounds += 1
    return best


class Convolution:
    """A submanifold convolution in three ways, forward and backward."""

    def __init__(self, neighbours: Tensor, channels: int, dtype: torch.dtype):
        """Draw features and weights, and list the rows of each offset."""
        rows = len(neighbours)
        self.tables = neighbours, neighbours.flip(1)  # as in puffin.layers.voxels
        self.x, self.grad = torch.randn(2, rows, channels, dtype=dtype)
        self.weight = torch.randn(27, channels, channels) / 27
        self.outputs = [(column >= 0).nonzero()[:, 0] for column in neighbours.unbind(1)]
        self.inputs = [column[i].long() for column, i in zip(neighbours.unbind(1), self.outputs, strict=True)]
        self.flop = 2 * sum(map(len, self.inputs)) * channels**2
        most = max(map(len, self.inputs))
        self.left, self.right, self.product = torch.randn(3, most, channels)

    def forward(self):
        """Run our operator."""
        return sparse_conv(self.x, self.weight, *self.tables)

    def backward(self):
        """Run the operators of both gradients."""
        of_x = sparse_conv(self.grad, self.weight.transpose(1, 2), *self.tables[::-1])
        return of_x, torch.ops.puffin.sparse_conv_weight(self.x, self.grad, self.tables[0])

    def plain_forward(self):
        """Select, multiply and add."""
        y = torch.zeros(len(self.x), self.weight.shape[2])
        for k, (i, o) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            y.index_add_(0, o, self.x.index_select(0, i) @ self.weight[k])
        return y

    def plain_backward(self):
        """Select, multiply and add, for both gradients."""
        of_x, of_weight = torch.zeros_like(self.x), torch.empty_like(self.weight)
        for k, (i, o) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            grad = self.grad.index_select(0, o)
            of_x.index_add_(0, i, grad @ self.weight[k].t())
            torch.mm(self.x.index_select(0, i).t(), grad, out=of_weight[k])
        return of_x, of_weight

    def dense_forward(self):
        """Multiply only."""
        for k, i in enumerate(self.inputs):
            torch.mm(self.left[: len(i)], self.weight[k], out=self.product[: len(i)])

    def dense_backward(self):
        """Multiply only, for both gradients."""
        out = torch.empty_like(self.weight[0])
        for k, i in enumerate(self.inputs):
            torch.mm(self.left[: len(i)], self.weight[k].t(), out=self.product[: len(i)])
            torch.mm(self.left[: len(i)].t(), self.right[: len(i)], out=out)


def compare(convolution: Convolution, budget: float, half: bool) -> list[str]:
    """Return the columns of a row of the table for each direction."""
    columns = []
    for direction, work in (("forward", 1), ("backward", 2)):
        functions = {
            name: getattr(convolution, prefix + direction)
            for name, prefix in (("puffin", ""), ("plain", "plain_"), ("dense", "dense_"))
            if not (half and name == "plain")
        }
        best = best_times(functions, budget)
        seconds = best["puffin"]
        rate = work * convolution.flop / seconds / 1e9
        plain = "" if half else f"{best['plain'] / seconds:.2f}x"
        dense = best["dense"] / seconds
        columns.append(f"{direction:9}{seconds * 1e3:10.2f} ms{rate:7.0f} GFLOP/s{plain:>8}{dense:7.0%}")
    return columns


def main(argv=None):
    """Print a table: times, rates, ratios."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"{'':26}{'time':>13}{'rate':>15}{'x plain':>8}{'dense':>7}")
    with torch.no_grad():
        for size in args.sizes:
            coordinates, ptr = batch_of(SIZES[size])
            neighbours = voxel_neighbours(coordinates, ptr)
            tables = {
                "order": lambda c=coordinates, p=ptr: voxel_order(c, p),
                "neighbours": lambda c=coordinates, p=ptr: voxel_neighbours(c, p),
                "coarse lattice": lambda c=coordinates, p=ptr: coarsen(c, p),
            }
            for name, seconds in best_times(tables, args.budget / 5).items():
                print(f"{size:5} {name:20}{seconds * 1e3:10.2f} ms")
            mean = float((neighbours >= 0).sum()) / len(neighbours)
            print(f"{size:5} {mean:.1f} of 27 neighbours exist")
            for channels in args.channels:
                dtype = torch.bfloat16 if args.bf16 else torch.float32
                for line in compare(Convolution(neighbours, channels, dtype), args.budget, args.bf16):
                    print(f"{size:5} {f'{channels} to {channels}':11}{line}", flush=True)


if __name__ == "__main__":
    main()
