"""Groups of flags that the scripts share.  Names are those of the published scripts."""

import argparse
import json
import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from puffin.data.scalars import DATASETS, TRANSFORMS
from puffin.errors import InputError
from puffin.layers.activations import ACTIVATIONS
from puffin.layers.lorentz import METHODS, STABILIZERS
from puffin.layers.norms import NORMS
from puffin.losses.momenta import MOMENTUM_LOSSES
from puffin.tasks.saving import FORMATS
from puffin.training.logs import LEVELS
from puffin.training.optimizers import OPTIMIZERS
from puffin.training.schedules import DECAYS

OnOff = argparse.BooleanOptionalAction
SPLIT_NAMES = ("train", "valid", "test")
_NORM_LETTERS = {"b": "batch", "i": "instance", "l": "layer", "false": "none"}


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, wide enough to read."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=110)


class AllIfNone(argparse.Action):
    """A list of splits; the bare flag means all of them."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, list(values) or list(SPLIT_NAMES))


def width_list(text: str) -> list:
    """A width, or a JSON list of widths (of lists for the message networks): 25 or [25,15] or [[25],[25]]."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, (int, list)) or isinstance(value, bool):
        raise argparse.ArgumentTypeError(f"expected a number or a list such as [25,15] or [[25],[25]], got {text!r}")
    return value


def norm_name(text: str) -> str:
    """A normalisation by name or by the letter of the published scripts."""
    name = _NORM_LETTERS.get(str(text).lower(), str(text).lower())
    if name not in NORMS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(NORMS)} (or b, i, l), got {text!r}")
    return name


def checked(parse: Callable[[str], object], *words: str) -> Callable[[str], str]:
    """The type of a flag whose value stays a text, which `parse` must take unless it is one of `words`."""

    def check(text: str) -> str:
        if text not in words:
            parse(text)
        return text

    return check


def parse_terms(text: str, names: Collection[str] = tuple(MOMENTUM_LOSSES)) -> dict[str, float]:
    """The terms of --loss by name: m:0.05,3d:0.01; each once, with weights that are finite, not negative and not all zero."""
    terms = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        if name not in names:
            raise argparse.ArgumentTypeError(f"expected terms of {', '.join(names)}, got {name!r}")
        if name in terms:
            raise argparse.ArgumentTypeError(f"{name}: expected each term once, got it twice in {text!r}")
        try:
            terms[name] = float(weight or 1)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name}: expected a number after the colon, got {weight!r}") from error
    if not are_weights(terms.values()):
        raise argparse.ArgumentTypeError(
            f"expected weights that are finite, not negative and not all zero, got {text!r}"
        )
    return terms


def are_weights(numbers: Collection[float]) -> bool:
    """Whether a loss can be weighted with the numbers: finite, none negative and not all zero."""
    return all(math.isfinite(number) and number >= 0 for number in numbers) and any(numbers)


def parse_numbers(text: str, words: Collection[str] = ("balanced", "none")) -> list[float]:
    """Numbers of --class-weights: finite, none negative and not all zero."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not are_weights(numbers):
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(map(repr, words))} or a weight for each class such as 1,2.5, got {text!r}"
        )
    return numbers


def take_stored(
    args: argparse.Namespace,
    given: set[str],
    stored: dict,
    path: Path,
    names: Iterable[str],
    plain: Callable = lambda name, value: value,
) -> None:
    """Set arguments to what the network of a checkpoint was made with: `stored`, by name; names that it lacks stay.

    InputError if one was given and differs; plain(name, value): the spelling in which values are compared."""
    for name in names:
        if name not in stored:
            continue
        mine = getattr(args, name)
        if name in given and plain(name, mine) != plain(name, stored[name]):
            raise InputError(
                f"--{name.replace('_', '-')} {mine} contradicts {path}, which was trained with {stored[name]}; leave the flag out"
            )
        setattr(args, name, stored[name])


def take_further(args: argparse.Namespace, given: set[str], stored: dict, names: tuple[str, ...]) -> None:
    """Settings that may differ from a checkpoint's: taken from it unless given."""
    for name in names:
        if name in stored and name not in given:
            setattr(args, name, stored[name])


def add_run_arguments(parser: argparse.ArgumentParser, prefix: str) -> None:
    """What to do, under which name, where and on what."""
    group = parser.add_argument_group("run")
    group.add_argument("--task", choices=("train", "eval"), default="train", help="what to do")
    group.add_argument(
        "--eval",
        dest="task",
        action="store_const",
        const="eval",
        default=argparse.SUPPRESS,
        help="same as --task eval: only evaluate a checkpoint on the test file, and the splits of --predict",
    )
    group.add_argument("--prefix", "--jobname", default=prefix, help="name of the run, and of all its files")
    group.add_argument(
        "--yaml",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="presets: files that set defaults; the command line wins",
    )
    group.add_argument(
        "--load", action=OnOff, default=False, help="continue the run of this prefix from its last checkpoint"
    )
    group.add_argument(
        "--loadfile",
        default="",
        metavar="FILE",
        help="checkpoint to evaluate, to continue (with --load) or to fine-tune from",
    )
    group.add_argument("--save", action=OnOff, default=True, help="write checkpoints")
    group.add_argument(
        "--save-every",
        type=int,
        default=0,
        metavar="N",
        help="also save a checkpoint every N steps (0: after each validation only)",
    )
    group.add_argument(
        "--predict",
        nargs="*",
        choices=SPLIT_NAMES,
        action=AllIfNone,
        default=["test"],
        help="splits whose predictions are saved at the end; alone: all three",
    )
    group.add_argument(
        "--no-predict",
        dest="predict",
        action="store_const",
        const=[],
        default=argparse.SUPPRESS,
        help="save no predictions",
    )
    group.add_argument("--predict-format", choices=FORMATS, default="pt", help="file type of the predictions")
    group.add_argument(
        "--test",
        action=OnOff,
        default=False,
        help="only report the symmetries (permutation, batch, Lorentz) of the network of --loadfile, else of PREFIX_best.pt, else of a new one",
    )
    group.add_argument("--workdir", default="./", help="folder of the following three")
    group.add_argument("--logdir", default="log/", help="folder of logs and metrics")
    group.add_argument("--modeldir", default="model/", help="folder of checkpoints")
    group.add_argument("--predictdir", default="predict/", help="folder of predictions")
    group.add_argument(
        "--seed", type=int, default=1, help="of weights, order and dropout; negative: a new one, said in the log"
    )
    group.add_argument(
        "--reproducible", action=OnOff, default=False, help="deterministic algorithms on the GPU too (slower)"
    )

    group = parser.add_argument_group("device")
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where to compute; auto: CUDA if present, else CPU",
    )
    for name, *more in (("cpu",), ("cuda", "--gpu"), ("mps", "--m1")):
        group.add_argument(
            f"--{name}",
            *more,
            dest="device",
            action="store_const",
            const=name,
            default=argparse.SUPPRESS,
            help=f"same as --device {name}",
        )
    group.add_argument(
        "--dtype", choices=("float", "double"), default="float", help="precision of weights and features"
    )
    for name in ("float", "double"):
        group.add_argument(
            f"--{name}",
            dest="dtype",
            action="store_const",
            const=name,
            default=argparse.SUPPRESS,
            help=f"same as --dtype {name}",
        )
    group.add_argument("--amp", choices=("off", "bf16"), default="off", help="matrix products in bfloat16")
    group.add_argument("--compile", action=OnOff, default=False, help="compile the network with torch.compile")
    group.add_argument(
        "--distribute-eval",
        action=OnOff,
        default=True,
        help="with torchrun: evaluate on all processes, not on the first alone",
    )
    group.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")

    group = parser.add_argument_group("reports")
    group.add_argument(
        "--log-level", choices=LEVELS, default="info", help="least level that is shown; debug: tracebacks too"
    )
    group.add_argument("--verbose", "-v", action=OnOff, default=False, help="a log line every --log-every steps")
    group.add_argument("--log-every", type=int, default=10, metavar="N", help="steps between the lines of --verbose")
    group.add_argument("--summarize", action=OnOff, default=False, help="write TensorBoard files to LOGDIR/PREFIX/")
    group.add_argument(
        "--summarize-csv",
        "--summarize-scv",
        choices=("test", "all", "none"),
        default="test",
        help="test: a row of test metrics for each run; all: also a row per epoch in LOGDIR/PREFIX.epochs.csv",
    )
    group.add_argument("--plot", action=OnOff, default=True, help="draw curves to LOGDIR/PREFIX.png at the end")


def add_training_arguments(parser: argparse.ArgumentParser, best_by: Collection[str]) -> None:
    """Length, optimizer, learning rate, regularisation.  best_by: metrics that can choose the best epoch."""
    group = parser.add_argument_group("training")
    group.add_argument("--num-epoch", type=int, default=35, metavar="N", help="epochs")
    group.add_argument("--num-step", type=int, default=0, metavar="N", help="steps, instead of epochs (0: --num-epoch)")
    group.add_argument(
        "--batch-size",
        "-bs",
        type=int,
        default=64,
        metavar="N",
        help="events per batch of each process: with torchrun, a step takes N times the number of processes",
    )
    group.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches of each process in a step")
    group.add_argument("--optim", choices=tuple(OPTIMIZERS), default="adamw", type=str.lower, help="optimizer")
    group.add_argument("--weight-decay", type=float, default=0.005, help="weight decay")
    group.add_argument("--lr-init", type=float, default=0.0025, help="learning rate after the warm-up")
    group.add_argument("--lr-start", type=float, default=0.0, help="learning rate that the warm-up starts from")
    group.add_argument("--lr-final", type=float, default=1e-6, help="learning rate at the end")
    group.add_argument(
        "--lr-scale",
        choices=("none", "sqrt"),
        default="none",
        help="sqrt: multiply the three rates by the root of events per step / 128",
    )
    group.add_argument(
        "--lr-decay-type", choices=tuple(DECAYS), default="warm", help="decay between warm-up and cool-down"
    )
    group.add_argument("--warmup", type=float, default=4, metavar="EPOCHS", help="linear warm-up from --lr-start")
    group.add_argument(
        "--warmup-steps", type=int, default=0, metavar="N", help="its length in steps, instead of epochs"
    )
    group.add_argument(
        "--cooldown", type=float, default=3, metavar="EPOCHS", help="exponential decay to --lr-final at the end"
    )
    group.add_argument("--clip", type=float, default=0.0, metavar="NORM", help="largest gradient norm (0: no clipping)")
    group.add_argument(
        "--ema",
        type=float,
        default=0.0,
        metavar="DECAY",
        help="evaluate exponentially averaged weights (0: off; try 0.999)",
    )
    group.add_argument(
        "--valid-every", type=int, default=0, metavar="N", help="validate every N steps (0: after each epoch)"
    )
    group.add_argument(
        "--best-by", choices=best_by, default="loss", help="validation metric that chooses the best epoch"
    )


def add_jet_data_arguments(parser: argparse.ArgumentParser, target: str, target_help: str) -> None:
    """Where the jets are, and which part of them to take."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--datadir", default="./data/sample_data/run12", help="folder with train, valid (or val) and test HDF5 files"
    )
    group.add_argument("--testfile", default="", metavar="FILE", help="test file instead of those in --datadir")
    group.add_argument("--target", default=target, metavar="KEY", help=target_help)
    group.add_argument("--weights-key", default="", metavar="KEY", help="key of a weight for each event")
    group.add_argument(
        "--dataset",
        choices=tuple(DATASETS),
        default="jet",
        help="features of particles: jet none; qg particle types; jc charge, types and impact parameters",
    )
    group.add_argument("--read-pid", action=OnOff, default=False, help="particle types from the key pdgid as features")
    group.add_argument(
        "--scalars-keys",
        default="",
        metavar="KEYS",
        help=f"further features of particles: keys separated by commas, each raw or with a transform, as d0val:tanh ({', '.join(TRANSFORMS)})",
    )
    group.add_argument("--shuffle", action=OnOff, default=True, help="train in a new order every epoch")
    for split in SPLIT_NAMES:
        group.add_argument(
            f"--num-{split}",
            type=int,
            default=-1,
            metavar="N",
            help=f"{split} events to use (-1: all); a seeded subset, balanced for two classes",
        )
    group.add_argument(
        "--nobj", type=int, default=-1, metavar="N", help="most particles of a jet to use, in file order (-1: all)"
    )
    group.add_argument("--scale", type=float, default=1.0, help="factor on the momenta")
    group.add_argument(
        "--RAMdataset",
        action=OnOff,
        default=True,
        help="read all data into memory at the start; --no-RAMdataset: read as needed, shuffled by chunks",
    )
    group.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that prepare batches")


def add_pelican_arguments(parser: argparse.ArgumentParser) -> None:
    """The PELICAN network.  Every flag here is a field of PelicanConfig, except --masked."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--stabilizer", choices=STABILIZERS, default="so2", help="subgroup of the Lorentz group that stays a symmetry"
    )
    group.add_argument(
        "--method",
        choices=METHODS,
        default="spurions",
        help="how the rest is broken: fixed vectors, or non-invariant inputs",
    )
    group.add_argument(
        "--add-beams", action=OnOff, default=False, help="append the two beams (1,0,0,+-1) with labels of their own"
    )
    group.add_argument("--num-classes", type=int, default=2, metavar="N", help="classes")
    group.add_argument("--num-targets", type=int, default=1, metavar="N", help="four-momenta that a regressor predicts")
    group.add_argument("--nobj-avg", type=float, default=49, metavar="N", help="typical number of particles, nbar")
    group.add_argument(
        "--num-channels-scalar", type=int, default=10, metavar="N", help="channels made of scalars and spurion labels"
    )
    group.add_argument(
        "--num-channels-m",
        nargs="+",
        type=width_list,
        default=[[25]] * 5,
        metavar="W",
        help="widths of the message network of each block",
    )
    group.add_argument(
        "--num-channels-2to2",
        nargs="+",
        type=width_list,
        default=[15] * 5,
        metavar="W",
        help="width of each block's aggregation",
    )
    group.add_argument(
        "--num-channels-m-out",
        nargs="+",
        type=width_list,
        default=[25, 15],
        metavar="W",
        help="widths of the last message network",
    )
    group.add_argument(
        "--num-channels-out", nargs="+", type=width_list, default=[25], metavar="W", help="widths of the output MLP"
    )
    group.add_argument("--mlp-out", action=OnOff, default=True, help="an MLP after the last aggregation")
    group.add_argument(
        "--config",
        default="M",
        metavar="LETTERS",
        help="aggregations: s sum, m mean, x max, n min; capital: with a learnable power of n",
    )
    group.add_argument("--config-out", default="M", metavar="LETTERS", help="aggregations of the first and last layer")
    group.add_argument("--factorize", action=OnOff, default=True, help="factorised mixing of maps and channels")
    group.add_argument(
        "--activation", choices=tuple(ACTIVATIONS), default="leakyrelu", type=str.lower, help="activation function"
    )
    group.add_argument(
        "--activate-agg", action=OnOff, default=False, help="activation on the maps, before they are mixed"
    )
    group.add_argument("--activate-lin", action=OnOff, default=True, help="activation after mixing")
    group.add_argument("--activate-agg-out", action=OnOff, default=True, help="the same in the output aggregation")
    group.add_argument("--activate-lin-out", action=OnOff, default=False, help="the same in the output aggregation")
    group.add_argument("--drop-rate", type=float, default=0.0, help="dropout of messages")
    group.add_argument("--drop-rate-out", type=float, default=0.0, help="dropout before the output MLP")
    group.add_argument(
        "--batchnorm",
        type=norm_name,
        default="batch",
        metavar="{" + ",".join(NORMS) + "}",
        help="normalisation of messages",
    )
    group.add_argument(
        "--sync-batchnorm",
        action=OnOff,
        default=True,
        help="with torchrun: batch statistics over the events of all processes, as one process with all of them has",
    )
    group.add_argument(
        "--masked",
        action=OnOff,
        default=True,
        help="accepted for old commands; events are packed, so there is no padding to mask",
    )
    group.add_argument(
        "--irc-safe",
        action=OnOff,
        default=False,
        help="infrared- and collinear-safe network (without scalars and spurions)",
    )
    group.add_argument(
        "--irc-diagonal",
        action=OnOff,
        default=False,
        help="keep diagonal maps in an IRC-safe network, as published; breaks collinear safety",
    )
    group.add_argument(
        "--published-projections",
        action=OnOff,
        default=False,
        help="split the momenta of a se2 regressor as published, which is not covariant",
    )


def add_classification_arguments(parser: argparse.ArgumentParser) -> None:
    """The loss of a classifier."""
    group = parser.add_argument_group("loss")
    group.add_argument(
        "--class-weights",
        type=checked(parse_numbers, "balanced", "none"),
        default="none",
        metavar="W",
        help="a weight for each class, as 1,2.5, or 'balanced': inversely to how many training events it has",
    )


def add_regression_arguments(parser: argparse.ArgumentParser) -> None:
    """The loss of a regressor."""
    group = parser.add_argument_group("loss")
    group.add_argument(
        "--loss",
        type=checked(parse_terms),
        default="m:0.05,3d:0.01",
        metavar="TERMS",
        help=f"terms and their weights ({', '.join(MOMENTUM_LOSSES)})",
    )
