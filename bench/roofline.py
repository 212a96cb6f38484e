"""Roofline of the CPU kernels of PELICAN: time of each operator, and the least that its products and its bytes take.

    python3 bench/roofline.py                  # the widths of the 48k preset, 32 jets of 55 constituents, one thread
    python3 bench/roofline.py --message 25 --mixed 15 --nobj 40 --jets 16 --threads 2

The floor is the larger of two times: that of the matrix products at the rate of one large product in float32, and that
of the inputs and outputs, each once, at the rate at which two large tensors are added. Both rates are measured first,
with the same number of threads. Times are the best of many repetitions, which exclude most of what other programs do.
Exponentials, activations and sums are not counted as operations.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import torch
from torch import Tensor

from bench.timing import publish, timed
from puffin.ops.pair_index import PairIndex
from puffin.ops.pair_messages import pair_message
from puffin.ops.pairs import pair_mix
from puffin.runs.entry import run_script
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer
from puffin.training.memory import keep_freed_memory


class Case(NamedTuple):
    """An operator: how to run it, its floating-point operations in products, and bytes of its inputs and outputs."""

    name: str
    run: Callable[[], object]
    operations: float
    size: float


def best(action: Callable[[], object], repeat: int) -> float:
    """Return the shortest time in seconds."""
    action()
    return min(timed(action) for _ in range(repeat))


def rates(repeat: int) -> tuple[float, float]:
    """Measure operations per second of a large product, and bytes per second of a large sum."""
    a, b = torch.randn(2, 1536, 1536)
    x, y = torch.randn(2, 2**24)
    out = torch.empty_like(x)
    product = best(lambda: a @ b, repeat)
    addition = best(lambda: torch.add(x, y, out=out), repeat)
    return 2 * 1536**3 / product, 3 * x.numel() * 4 / addition


def cases(pairs: PairIndex, message: int, mixed: int, dtype: torch.dtype) -> list[Case]:
    """Return the operators between two blocks of the network, forward and backward."""
    number, nodes, size = pairs.num_pairs, pairs.num_nodes, torch.empty(0, dtype=dtype).element_size()

    def table(channels: int) -> Tensor:
        return torch.randn(number, channels).to(dtype)

    def of_nodes(channels: int) -> list[Tensor]:
        return [torch.randn(nodes, channels) for _ in range(3)]

    where = (pairs.node_ptr, pairs.upper_ptr)
    x, y, grad_x, grad_y = table(mixed), table(message), table(mixed), table(message)
    weight, bias, (even, odd) = torch.randn(message, mixed), torch.randn(message), torch.randn(2, message, mixed)
    uvw, product = tuple(of_nodes(mixed)), 2.0 * number * message * mixed
    backward = torch.ops.puffin.pair_message_backward
    arguments = (grad_y, y, x, weight, bias, bias, bias, *of_nodes(message), None, *where, 0.1)
    both = number * (message + mixed) * size
    return [
        Case("message", lambda: pair_message(x, weight, bias, 0.1, pairs), product, both + 3 * nodes * message * 4),
        Case("message, backward", lambda: backward(*arguments), 2 * product, 2 * both + 3 * nodes * message * 4),
        Case("mix", lambda: pair_mix(y, even, odd, uvw, pairs, 0.1), product, both + 3 * nodes * mixed * 4),
        Case(
            "mix, backward",
            lambda: torch.ops.puffin.pair_mix_backward(grad_x, x, y, even, odd, *where, nodes, 0.1),
            2 * product,
            2 * both + 3 * nodes * mixed * 4,
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    """Read the flags, measure, and print the table."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    for flag, default, text in (
        ("--jets", 32, "jets of the batch"),
        ("--nobj", 55, "constituents of each jet, to which two spurions are added"),
        ("--message", 60, "channels of the messages"),
        ("--mixed", 35, "channels of the 2 -> 2 layers"),
        ("--threads", 1, "number of CPU threads"),
        ("--repeat", 20, "repetitions, of which the best counts"),
    ):
        add(flag, type=integer(1), default=default, metavar="N", help=f"{text} (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="also write the report to this text file (default: only print it)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    rate, bandwidth = rates(args.repeat)
    lines = [
        f"{args.threads} thread(s): {rate / 1e9:.0f} GFLOP/s in a large product of float32, "
        f"{bandwidth / 1e9:.0f} GB/s in a large sum",
        "",
        f"{'':10}{'':18}{'MB':>7}{'GFLOP':>8}{'floor':>10}{'time':>10}{'GFLOP/s':>9}{'of the floor':>14}",
    ]
    pairs = PairIndex(torch.full((args.jets,), args.nobj + 2), torch.device("cpu"))
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            for case in cases(pairs, args.message, args.mixed, dtype):
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    seconds = best(case.run, args.repeat)
                floor = max(case.operations / rate, case.size / bandwidth)
                name = str(dtype).removeprefix("torch.")
                lines.append(
                    f"{name:10}{case.name:18}{case.size / 1e6:7.1f}{case.operations / 1e9:8.3f}{1e3 * floor:8.2f} ms"
                    f"{1e3 * seconds:7.2f} ms{case.operations / seconds / 1e9:9.0f}{floor / seconds:13.0%}"
                )
    publish("\n".join(lines), args.out)


if __name__ == "__main__":
    run_script(main, hint="")
