"""PELICAN side by side: training step, inference and memory of several implementations on the same real jets.

    python3 bench/pelican.py                     # the 48k preset, batches of 64, two threads
    python3 bench/pelican.py --preset 11k --batch-size 32 --repeat 9 --out pelican.txt

All implementations get the widths of one preset, five blocks, stabilizer so2 with spurions, letter M, factorised
coefficients, leaky ReLU, dropout off, float32, and the same padded batch. `puffin, plain` is `puffin` without its
compiled kernels, and `puffin, bf16` stores pairs in bfloat16 as with --amp bf16. All run with glibc keeping freed
memory, as Puffin's scripts do (--default-malloc: none does).
The work of a data loader (packing, masks) is done before the clock starts. A training step is forward pass, cross
entropy, backward pass and AdamW's update; inference is a forward pass in eval mode without gradients.
Times are medians. The implementations take turns (A B C A B C ...), after one untimed turn each, so that a busy
machine slows all of them equally.
Memory is the peak that one training step adds. Each implementation runs in a child process of its own, which first
imports everything, builds network and batch and takes a step on two tiny jets, so that optimizer states and thread
pools exist; the result is its ru_maxrss after one full step minus its ru_maxrss before. Children run before the timing,
while the parent is small, because on Linux a child inherits the parent's peak.
"""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.pop(0)  # bench/, whose pelican.py would hide pelican-lite's package of that name
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import h5py
import torch
from torch import Tensor, nn

from bench import pelican_lite_peer
from bench.dense_pelican import SPURIONS, DensePelican
from bench.presets import pelican_preset
from bench.timing import add_timing_arguments, check_positive, in_turns, memory_in_child, memory_of, publish
from puffin.data.packing import pack_padded
from puffin.models.pelican import PelicanClassifier
from puffin.ops import library
from puffin.settings.parser import OneLineParser
from puffin.settings.pelican import PelicanConfig
from puffin.training.memory import keep_freed_memory
from puffin.training.update import autocast

ROOT = Path(__file__).resolve().parents[1]


PRESETS = ("208k", "48k", "24k", "11k", "6k", "3k")
REFERENCE = "dense"


class Implementation(NamedTuple):
    """A network and its packing: network(*collate(padded jets (B, N, 4))) returns logits (B, 2)."""

    network: nn.Module
    collate: Callable[[Tensor], tuple]
    surroundings: Callable = contextlib.nullcontext  # context manager around each step


class Batch(NamedTuple):
    fourmomenta: Tensor  # (B, N, 4) float32, GeV, zero-padded
    labels: Tensor  # (B,) int64


class Row(NamedTuple):
    """Results of an implementation: seconds of a step and of inference, bytes, number of parameters."""

    train: float
    infer: float
    memory: float
    parameters: int


def build_dense(config: PelicanConfig) -> Implementation:
    network = DensePelican(
        num_channels_m=[list(widths) for widths in config.num_channels_m],
        num_channels_2to2=list(config.num_channels_2to2),
        num_channels_m_out=list(config.num_channels_m_out),
        num_channels_out=list(config.num_channels_out),
        num_channels_scalar=config.num_channels_scalar,
        stabilizer=config.stabilizer,
        average_nobj=config.nobj_avg,
    )
    return Implementation(network, lambda jets: (jets, jets[..., 0] != 0))


def build_puffin(config: PelicanConfig) -> Implementation:
    return Implementation(PelicanClassifier(config), lambda jets: (pack_padded(jets, jets[..., 0] != 0),))


def build_puffin_plain(config: PelicanConfig) -> Implementation:
    return build_puffin(config)._replace(surroundings=library.without_kernels)


def build_puffin_bf16(config: PelicanConfig) -> Implementation:
    return build_puffin(config)._replace(surroundings=lambda: autocast(torch.device("cpu"), "bf16"))


def build_pelican_lite(config: PelicanConfig) -> Implementation:
    spurions = torch.tensor(SPURIONS[config.stabilizer], dtype=torch.float32)
    message, equivariant = config.num_channels_m_out
    network = pelican_lite_peer.PelicanLite(message, equivariant, spurions, len(config.num_channels_2to2))
    return Implementation(network, network.collate)


BUILDERS: dict[str, Callable[[PelicanConfig], Implementation]] = {
    REFERENCE: build_dense,
    "pelican-lite": build_pelican_lite,
    "puffin, plain": build_puffin_plain,
    "puffin": build_puffin,
    "puffin, bf16": build_puffin_bf16,
}
NEEDS = {"pelican-lite": (pelican_lite_peer.PACKAGE, pelican_lite_peer.INSTALL)}  # module, how to install it


def read_batches(path: Path, batch_size: int, num_jets: int, nobj: int) -> list[Batch]:
    """Read random jets (fixed seed), their first `nobj` constituents, padded to the longest jet of each batch."""
    if not path.is_file():
        sys.exit(f"{path}: no such file; name jets with --file (keys Pmu and is_signal)")
    with h5py.File(path) as file:
        for key in ("Pmu", "is_signal"):
            if key not in file:
                sys.exit(f"{path}: key '{key}' not found (has: {', '.join(file)})")
        total = len(file["Pmu"])
        if not batch_size <= num_jets <= total:
            sys.exit(f"--num-jets {num_jets}: expected {batch_size} (one batch) to {total} (all of {path})")
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:num_jets].sort().values.numpy()
        fourmomenta = torch.from_numpy(file["Pmu"][chosen][:, :nobj]).float()
        labels = torch.from_numpy(file["is_signal"][chosen]).long()
    order = torch.randperm(num_jets, generator=torch.Generator().manual_seed(1))
    batches = []
    for pick in order.split(batch_size):
        if len(pick) == batch_size:
            longest = int((fourmomenta[pick][..., 0] != 0).sum(1).max())
            batches.append(Batch(fourmomenta[pick][:, :longest], labels[pick]))
    return batches


def make_step(implementation: Implementation, batch: Batch, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return a function that takes one training step on this batch, which is packed here."""
    inputs = implementation.collate(batch.fourmomenta)

    def step():
        implementation.network.train()
        optimizer.zero_grad()
        with implementation.surroundings():
            nn.functional.cross_entropy(implementation.network(*inputs), batch.labels).backward()
        optimizer.step()

    return step


def make_inference(implementation: Implementation, batch: Batch) -> Callable[[], None]:
    inputs = implementation.collate(batch.fourmomenta)

    @torch.no_grad()
    def infer():
        implementation.network.eval()
        with implementation.surroundings():
            implementation.network(*inputs)

    return infer


def build(name: str, preset: str) -> tuple[Implementation, torch.optim.Optimizer]:
    torch.manual_seed(0)
    implementation = BUILDERS[name](pelican_preset(preset))
    return implementation, torch.optim.AdamW(implementation.network.parameters(), lr=1e-3, fused=True)


def memory_of_step(name: str, preset: str, batch: Batch) -> int:
    """Measure the bytes that one training step adds at its peak. Call it in a fresh process."""
    implementation, optimizer = build(name, preset)
    step = make_step(implementation, batch, optimizer)
    make_step(implementation, Batch(batch.fourmomenta[:2, :4], batch.labels[:2]), optimizer)()
    return memory_of(step)


def measure_times(names: list[str], preset: str, batches: list[Batch], repeat: int) -> dict[str, Row]:
    """Measure the median seconds per implementation; `memory` stays 0."""
    built = {name: build(name, preset) for name in names}
    steps = {name: [make_step(network, b, optimizer) for b in batches] for name, (network, optimizer) in built.items()}
    inferences = {name: [make_inference(network, b) for b in batches] for name, (network, _) in built.items()}
    train, infer = in_turns(steps, repeat, "step"), in_turns(inferences, repeat, "inference")
    count = {name: sum(p.numel() for p in built[name][0].network.parameters()) for name in names}
    return {name: Row(train[name], infer[name], 0, count[name]) for name in names}


def table(rows: dict[str, Row]) -> str:
    """Format one line per implementation; x = reference / this."""
    reference = rows[REFERENCE]
    lines = [f"{'':16}{'parameters':>11}{'train step':>12}{'x':>7}{'inference':>12}{'x':>7}{'peak memory':>13}{'x':>7}"]
    for name, row in rows.items():
        times = [f"{a * 1e3:>9.1f} ms{b / a:>7.2f}" for a, b in zip(row[:2], reference[:2], strict=False)]
        memory = f"{row.memory / 2**20:>9.1f} MiB{reference.memory / max(row.memory, 1):>7.2f}"
        lines.append(f"{name:16}{row.parameters:>11}{times[0]}{times[1]}{memory}")
    return "\n".join(lines)


def describe(args: argparse.Namespace, batches: list[Batch]) -> str:
    sizes = torch.cat([(b.fourmomenta[..., 0] != 0).sum(1) for b in batches])
    return (
        f"preset {args.preset}, {len(batches)} batch(es) of {args.batch_size} jets with {sizes.float().mean():.1f} "
        f"constituents on average, {sizes.max()} at most; {args.threads} threads, torch {torch.__version__}, median of "
        f"{args.repeat}; x = {REFERENCE} / this"
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="48k", help="widths (default: %(default)s)")
    parser.add_argument("--file", type=Path, default=ROOT / "data/sample_data/run12/train.h5", help="jets to run on")
    parser.add_argument("--batch-size", type=int, default=64, help="jets per step (default: %(default)s)")
    parser.add_argument("--num-jets", type=int, help="jets to read; turns take batch after batch (default: one)")
    parser.add_argument("--nobj", type=int, default=85, help="constituents kept per jet (default: %(default)s)")
    parser.add_argument("--default-malloc", action="store_true", help="leave the C library's memory as it is")
    parser.add_argument("--only", nargs="+", choices=BUILDERS, help=f"besides {REFERENCE}, only these (default: all)")
    add_timing_arguments(parser, tuple(BUILDERS))
    args = parser.parse_args(arguments)
    check_positive(parser, args, "batch_size", "nobj")
    return args


def main(arguments: list[str]):
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    if not args.default_malloc:
        keep_freed_memory()
    batches = read_batches(args.file, args.batch_size, args.num_jets or args.batch_size, args.nobj)
    if args.memory_of:
        print(memory_of_step(args.memory_of, args.preset, batches[0]))
        return
    names = [name for name in BUILDERS if args.only is None or name in (REFERENCE, *args.only)]
    notes = []
    for name in list(names):
        module, install = NEEDS.get(name, (None, None))
        if module and importlib.util.find_spec(module) is None:
            notes.append(f"{name} left out: not installed. To compare with it: {install}")
            names.remove(name)
    memory = {name: memory_in_child(__file__, name, arguments) for name in names}
    times = measure_times(names, args.preset, batches, args.repeat)
    rows = {name: times[name]._replace(memory=memory[name]) for name in names}
    report = "\n".join([describe(args, batches), "", table(rows), *notes])
    publish(report, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
