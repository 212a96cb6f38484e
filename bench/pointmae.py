"""Compare the packed and the padded formulation of Point-MAE and PoLAr-MAE: tokens, training step and memory.

    python3 bench/pointmae.py                              # PoLAr-MAE, vit_small, 8 events of about 4400 points
    python3 bench/pointmae.py --amp bf16                   # the packed step under autocast, the padded one in float32
    python3 bench/pointmae.py --no-energy --batch-size 4 --repeat 5 --out pointmae.txt

`padded` is bench/padded_point_mae.py: 512 token slots of 32 points, masks, full distance matrices; it has the same
weights and the same outputs (tests/bench). Events are random walks on the lattice of voxels. A training step is the
forward pass, the losses, the backward pass and the update of AdamW; the tokens are made before, and timed separately.
Times are medians; the two formulations alternate, after one untimed round. The memory is the peak that a step adds,
measured in a separate process. The last table shows the time of each part of the packed step (forward and backward
pass of this part alone, in float32), its number of floating-point operations, and their rate relative to that of one
large matrix product on the same machine.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()


import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.padded_point_mae import PaddedPointMAE, padded_tokens, slots_of
from bench.timing import add_timing_arguments, in_turns, memory_in_child, memory_of, publish, timed
from puffin.layers.grouping import Tokens, tokenize
from puffin.layers.packed import pad
from puffin.losses.clouds import chamfer_by_group, energy_by_group
from puffin.models.point_mae import PointMAE, random_mask
from puffin.settings.clouds import PointMAEConfig
from puffin.settings.encoder import ARCHITECTURES, VOXEL, EncoderConfig, TokenizerConfig, TransformerConfig
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer
from puffin.training.memory import keep_freed_memory
from puffin.training.update import autocast

NAMES = ("padded", "packed")


def make_events(number: int, mean_points: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make packed events of several tracks: points (P, 4), prepared like those of a data set, and lengths (B,).

    A track is a random walk with a persistent direction, 100 to 700 points long and two or three voxels thick.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    spread = torch.exp(0.4 * random(number))
    events = []
    for wanted in (mean_points * spread / spread.mean()).long().tolist():
        event = torch.zeros(0, 3)
        while len(event) < wanted:
            steps = int(torch.randint(100, 700, (1,), generator=generator))
            direction = random(3) + 0.25 * random(steps, 3).cumsum(0) / steps**0.5
            walk = (0.6 * direction / direction.norm(dim=1, keepdim=True)).cumsum(0)
            start = 384 * torch.rand(3, generator=generator) + 192
            track = (start + walk + 0.5 * random(steps, 3)).round()
            event = torch.cat([event, track.unique(dim=0)])[:wanted]
        energy = 2 * torch.rand(len(event), 1, generator=generator) - 1
        events.append(torch.cat([(event - 384) * VOXEL, energy], 1))
    return torch.cat(events), torch.tensor([len(event) for event in events])


def make_config(args: argparse.Namespace) -> PointMAEConfig:
    """Return the settings of the network that the flags choose."""
    rates = {} if args.dropout else {"attention_dropout": 0.0, "drop_path": 0.0}
    encoder = EncoderConfig(TokenizerConfig(), TransformerConfig(args.arch, **rates))
    return PointMAEConfig(encoder, model="polarmae" if args.energy else "pointmae")


def make_step(name: str, config: PointMAEConfig, points: Tensor, lengths: Tensor, amp: str) -> Callable[[], None]:
    """Return a function that does one training step, on tokens made in advance; amp: precision of the packed one."""
    torch.manual_seed(0)
    model = (PointMAE if name == "packed" else PaddedPointMAE)(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    tokens = tokenize(points, lengths, config.encoder.tokens)
    masked = random_mask(tokens.lengths, config.mask_ratio, torch.Generator().manual_seed(1))
    if name == "padded":
        padded = padded_tokens(pad(points, lengths), lengths, config.encoder.tokens)
        in_slots = slots_of(masked, padded.token_mask)

    def step():
        optimizer.zero_grad()
        if name == "packed":
            with autocast(points.device, amp):
                losses = model.reconstruct(tokens, masked).losses()
        else:
            losses = model(padded, in_slots)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()

    return step


def memory_of_step(name: str, config: PointMAEConfig, points: Tensor, lengths: Tensor, amp: str) -> int:
    """Return the bytes that one training step adds at its peak. Call it in a fresh process."""
    few = int(lengths[0].clamp(max=200))
    make_step(name, config, points[:few], torch.tensor([few]), amp)()  # allocates thread pools and buffers
    step = make_step(name, config, points, lengths, amp)
    return memory_of(step)


def product_rate() -> float:
    """Return the operations per second of a matrix product of the size of the MLP, the maximum of 20."""
    a, b = torch.randn(4096, 384), torch.randn(1536, 384)
    return 2 * a.numel() * len(b) / min(timed(lambda: nn.functional.linear(a, b)) for _ in range(20))


def parts(model: PointMAE, tokens: Tokens, masked: Tensor) -> dict[str, Callable[[], None]]:
    """Return the parts of a training step; each does its forward and backward pass on inputs of its own."""
    visible, hidden, dim = tokens.select(~masked), tokens.select(masked), model.config.encoder.dim

    def leaf(n):
        return torch.randn(n, dim, requires_grad=True)

    visible_x, visible_position = leaf(len(visible)), leaf(len(visible))
    all_x, all_position, decoded = leaf(len(tokens)), leaf(len(tokens)), leaf(len(hidden))

    def heads():
        predicted = model.points(decoded).unflatten(1, (-1, 4))
        loss = chamfer_by_group(predicted, hidden.groups, hidden.counts).mean()
        if model.energy is not None:
            energy = model.energy(hidden.groups, hidden.counts, decoded)
            loss = loss + energy_by_group(energy, hidden.groups[:, 3], hidden.counts).sum() / len(hidden.groups)
        loss.backward()

    return {
        "embedding of visible groups": lambda: model.encoder.embed(visible).sum().backward(),
        "encoder blocks": lambda: (
            model.encoder.transformer(visible_x, visible_position, visible.lengths).sum().backward()
        ),
        "decoder blocks": lambda: model.decoder(all_x, all_position, tokens.lengths).sum().backward(),
        "heads and losses": heads,
    }


def where_time_goes(config: PointMAEConfig, points: Tensor, lengths: Tensor, repeat: int) -> str:
    """Return a line per part: milliseconds, 10^9 operations, rate as a fraction of that of a matrix product."""
    model = PointMAE(config)
    tokens = tokenize(points, lengths, config.encoder.tokens)
    masked = random_mask(tokens.lengths, config.mask_ratio)
    rate = product_rate()
    lines = [f"matrix product: {rate / 1e9:.0f} GFLOP/s", f"{'':30}{'time':>10}{'GFLOP':>9}{'of that rate':>14}"]
    whole, operations = 0.0, 0
    for name, part in parts(model, tokens, masked).items():
        with FlopCounterMode(display=False) as counter:
            part()
        seconds = min(timed(part) for _ in range(repeat))
        whole, operations = whole + seconds, operations + counter.get_total_flops()
        lines.append(part_line(name, seconds, counter.get_total_flops(), rate))
    return "\n".join([*lines, part_line("together", whole, operations, rate)])


def part_line(name: str, seconds: float, operations: int, rate: float) -> str:
    """Format the line of one part."""
    return f"{name:30}{seconds * 1e3:>7.1f} ms{operations / 1e9:>9.1f}{operations / seconds / rate:>13.0%}"


def table(rows: dict[str, dict[str, float]], memory: dict[str, int]) -> str:
    """Format seconds and bytes: one line each, with the ratio padded / packed."""

    def line(label: str, values: dict[str, float], unit: float, name: str) -> str:
        padded, packed = (values[name] / unit for name in NAMES)
        return f"{label:16}{padded:>9.1f} {name:3}{packed:>9.1f} {name:3}{padded / packed:>8.1f}"

    lines = [f"{'':16}{'padded':>13}{'packed':>13}{'ratio':>8}"]
    lines += [line(label, row, 1e-3, "ms") for label, row in rows.items()]
    return "\n".join([*lines, line("peak memory", memory, 2**20, "MiB")])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    switch = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--arch", choices=ARCHITECTURES, default="vit_small", help="size of the transformer (default: %(default)s)")
    add("--energy", action=switch, default=True, help="predict energies: PoLAr-MAE, else Point-MAE (default: yes)")
    add("--dropout", action=switch, default=True, help="use attention dropout and stochastic depth (default: yes)")
    add("--amp", choices=("off", "bf16"), default="off", help="bf16: mixed precision in the packed step (default: off)")
    add("--batch-size", type=integer(1), default=8, metavar="N", help="events per step (default: %(default)s)")
    add("--points", type=integer(1), default=4400, metavar="N", help="mean points per event (default: %(default)s)")
    add_timing_arguments(parser, NAMES)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure both formulations, and print the tables."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    config = make_config(args)
    points, lengths = make_events(args.batch_size, args.points)
    if args.memory_of:
        print(memory_of_step(args.memory_of, config, points, lengths, args.amp))
        return
    memory = {name: memory_in_child(__file__, name, arguments) for name in NAMES}
    tokens, tokenizer = tokenize(points, lengths, config.encoder.tokens), config.encoder.tokens
    cloud = pad(points, lengths)
    makers = {
        "padded": [lambda: padded_tokens(cloud, lengths, tokenizer)],
        "packed": [lambda: tokenize(points, lengths, tokenizer)],
    }
    steps = {name: [make_step(name, config, points, lengths, args.amp)] for name in NAMES}
    rows = {
        "tokens": in_turns(makers, args.repeat, "tokens"),
        "training step": in_turns(steps, args.repeat, "step"),
    }
    model = "PoLAr-MAE" if args.energy else "Point-MAE"
    report = "\n".join(
        [
            f"{model}, {args.arch}, dropout {'on' if args.dropout else 'off'}, "
            f"packed step with --amp {args.amp}: {args.batch_size} events, "
            f"{lengths.float().mean():.0f} points and {tokens.lengths.float().mean():.0f} tokens each (at most "
            f"{tokens.lengths.max()}), {tokens.counts.float().mean():.1f} points per token; {args.threads} thread(s), "
            f"torch {torch.__version__}, median of {args.repeat}; ratio = padded / packed",
            "",
            table(rows, memory),
            "",
            where_time_goes(config, points, lengths, args.repeat),
        ]
    )
    publish(report, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
