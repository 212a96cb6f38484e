"""What the scripts on point clouds share: flags, and from flags to data, network and task."""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from puffin.checkpoints.published_clouds import published_network
from puffin.cli.arguments import SPLIT_NAMES, OnOff, take_further, take_stored
from puffin.data.events import choose_events
from puffin.data.pilarnet import CloudDataset, CloudSelection, open_splits
from puffin.data.pilarnet_files import find_files
from puffin.errors import InputError
from puffin.layers.grouping import CENTRES, NEIGHBOURS, REDUCTIONS, TOKENIZERS
from puffin.layers.transformer import ARCHITECTURES, TransformerConfig
from puffin.models.point_encoder import EncoderConfig
from puffin.models.point_mae import PointMAE, PointMAEConfig
from puffin.plots.clouds import need_plotly
from puffin.runs.run import Run, log, train_and_evaluate
from puffin.tasks.cloud_pictures import draw_events
from puffin.tasks.token_probe import TokenProbe
from puffin.training import distributed

MODELS = ("pointmae", "polarmae")
# flags of the tokens, which a preset (--voxels) sets where they are not given
_TOKENS = (
    "radius",
    "context",
    "group_size",
    "upscale",
    "overlap",
    "centres",
    "neighbours",
    "reduction",
    "seeds",
    "mean_centres",
)
ENCODER = ("arch", "depth", "published_norms", "voxels", *_TOKENS)
_NETWORK = ("model", "decoder_depth", "mask_ratio", *ENCODER)
_NO_DROPOUT = {"attention_dropout": 0.0, "drop_path": 0.0}
# settings of the data that a network was trained with; taken from the checkpoint unless given
DATA = ("energy_threshold", "emin", "remove_led")


def add_cloud_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the events are, and which part of them to take."""
    default = CloudSelection()
    group = parser.add_argument_group("data")
    group.add_argument(
        "--datadir",
        default="./data/sample_data/lartpc",
        help="folder with HDF5 files in train/, val/ and, if there is one, test/",
    )
    group.add_argument(
        "--testfile",
        nargs="+",
        default=[],
        metavar="PATH",
        help="test files, or folders that are searched for .h5 files, instead of those in --datadir",
    )
    group.add_argument("--shuffle", action=OnOff, default=True, help="train in a new order every epoch")
    for split in SPLIT_NAMES:
        group.add_argument(
            f"--num-{split}",
            type=int,
            default=-1,
            metavar="N",
            help=f"{split} events to use (-1: all); a seeded subset",
        )
    group.add_argument(
        "--min-points",
        type=int,
        default=default.min_points,
        metavar="N",
        help="least points of an event, all of them counted",
    )
    group.add_argument(
        "--energy-threshold",
        type=float,
        default=default.energy_threshold,
        metavar="MEV",
        help="drop points at or below it",
    )
    group.add_argument(
        "--emin",
        type=float,
        default=None,
        metavar="MEV",
        help="energy that becomes about -1 (None: the threshold, or 0.01 if that is 0)",
    )
    group.add_argument("--remove-led", action=OnOff, default=default.remove_led, help="without low-energy deposits")
    group.add_argument("--skip-bad", action=OnOff, default=False, help="leave bad files and events out and count them")
    group.add_argument("--rotate", action=OnOff, default=True, help="turn each training event at random")
    group.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that prepare batches")


def add_cloud_network_arguments(parser: argparse.ArgumentParser) -> None:
    """The network of a masked autoencoder."""
    group = parser.add_argument_group("network")
    group.add_argument("--model", choices=MODELS, default="polarmae", help="polarmae: fill in energies too")
    group.add_argument(
        "--decoder-depth",
        type=int,
        default=4,
        metavar="N",
        help="blocks of the decoder; 0: none, the encoder gets mask tokens for what is hidden (SimMIM), which teaches it more in a short run",
    )
    group.add_argument("--mask-ratio", type=float, default=0.6, help="part of an event's tokens that is hidden")
    add_encoder_arguments(group)


def add_encoder_arguments(group: argparse._ArgumentGroup) -> None:
    """Tokens and transformer of an encoder."""
    group.add_argument("--arch", choices=tuple(ARCHITECTURES), default="vit_small", help="size of the transformer")
    group.add_argument("--depth", type=int, default=12, metavar="N", help="blocks of the encoder")
    group.add_argument("--attention-dropout", type=float, default=0.05, help="dropout of attention weights")
    group.add_argument(
        "--drop-path",
        type=float,
        default=0.25,
        help="stochastic depth: chance to drop a branch of the last block, falling to 0 in the first",
    )
    group.add_argument(
        "--sync-batchnorm",
        action=OnOff,
        default=True,
        help="with torchrun: batch statistics over the events of all processes",
    )
    group.add_argument(
        "--published-norms",
        action=OnOff,
        default=False,
        help="padding rows and norms over the whole batch, which published weights need; set by their checkpoints",
    )
    group.add_argument(
        "--voxels",
        choices=tuple(TOKENIZERS),
        default="5",
        help="radius of a token in voxels: a preset for the flags that follow",
    )
    group.add_argument(
        "--radius",
        type=float,
        default=None,
        metavar="R",
        help="radius of a token, as a part of half the detector's diagonal (a voxel: 0.0015035)",
    )
    group.add_argument("--context", type=int, default=None, metavar="N", help="most tokens of an event")
    group.add_argument("--group-size", type=int, default=None, metavar="N", help="most points of a token")
    group.add_argument("--upscale", type=int, default=None, metavar="N", help="points of a token before it is reduced")
    group.add_argument(
        "--overlap", type=float, default=None, metavar="F", help="of tokens: centres are at least 2 R F apart"
    )
    group.add_argument(
        "--centres", choices=CENTRES, default=None, help="cnms: as many as are needed; fps: --context of them"
    )
    group.add_argument(
        "--neighbours", choices=NEIGHBOURS, default=None, help="points of a token: those in the ball, or the nearest"
    )
    group.add_argument(
        "--reduction",
        choices=REDUCTIONS,
        default=None,
        help="which points of a full ball stay: farthest from each other, or of highest energy",
    )
    group.add_argument(
        "--seeds", type=int, default=None, metavar="N", help="farthest points among which cnms chooses (0: all points)"
    )
    group.add_argument("--mean-centres", action=OnOff, default=None, help="a token sits at the mean of its points")


def add_pretraining_arguments(parser: argparse.ArgumentParser) -> None:
    """What is looked at during pretraining."""
    group = parser.add_argument_group("pretraining")
    group.add_argument(
        "--probe",
        action=OnOff,
        default=True,
        help="linear probe: how well classes can be read from the tokens; needs the training events of --datadir, with --eval too",
    )
    group.add_argument(
        "--probe-every",
        type=int,
        default=0,
        metavar="N",
        help="probe at the first validation after every N steps (0: only at the end)",
    )
    add_picture_arguments(group)


def add_picture_arguments(group: argparse._ArgumentGroup) -> None:
    """Pictures of events."""
    group.add_argument(
        "--plot-every",
        type=int,
        default=0,
        metavar="N",
        help="draw events at the first validation after every N steps (0: only at the end)",
    )
    group.add_argument(
        "--plot-events",
        type=int,
        default=1,
        metavar="N",
        help="validation events to draw (--no-plot: none), to LOGDIR/PREFIX/",
    )
    group.add_argument(
        "--plot-numbers",
        type=int,
        nargs="+",
        default=None,
        metavar="EVENT",
        help="draw these validation events, counted from 0, instead of the first --plot-events",
    )
    group.add_argument(
        "--plot-html", action=OnOff, default=False, help="draw them as interactive HTML too; needs plotly"
    )


def encoder_config(args: argparse.Namespace) -> EncoderConfig:
    """The encoder that the flags describe; ValueError if they contradict each other."""
    given = {name: getattr(args, name) for name in _TOKENS if getattr(args, name) is not None}
    transformer = TransformerConfig(
        args.arch, args.depth, args.attention_dropout, args.drop_path, batch_wide_norm=args.published_norms
    )
    return EncoderConfig(
        replace(TOKENIZERS[args.voxels], **given),
        transformer,
        padding_row=args.published_norms,
        sync_batchnorm=args.sync_batchnorm,
    )


def point_mae_config(args: argparse.Namespace) -> PointMAEConfig:
    """The network that the flags describe; InputError if they contradict each other."""
    try:
        encoder = encoder_config(args)
        decoder = replace(encoder.transformer, depth=args.decoder_depth, final_norm=True)
        return PointMAEConfig(encoder, decoder, args.mask_ratio, args.model == "polarmae")
    except ValueError as error:
        raise InputError(f"network flags: {error}") from error


def check_probe(args: argparse.Namespace) -> None:
    """InputError if a probe is to choose the best epoch, and training makes none."""
    made = args.probe and 0 < args.probe_every <= (args.num_step or math.inf)
    if args.task == "train" and args.best_by.startswith("probe_") and not made:
        raise InputError(
            f"--best-by {args.best_by}: expected --probe, and --probe-every N within the run, so that training makes probes to compare; got none"
        )


def make_probe(run: Run, given: set[str], datasets: dict[str, CloudDataset]) -> TokenProbe | None:
    """The linear probe that the flags ask for; without training events none, and a line in the log.

    Where a test file alone is open, they are those of --datadir, if that was given: the default is the sample."""
    args = run.args
    if not args.probe:
        return None
    if "train" not in datasets and "datadir" in given:
        wanted = {"train": args.num_train}
        datasets = datasets | open_splits(
            args.datadir, datasets["test"].selection, wanted, args.seed, max(1, args.num_workers)
        )
    if "train" not in datasets:
        log.info("no linear probe: it needs training events (train/*.h5 in --datadir)")
        return None
    return TokenProbe(datasets, args.seed)


def take_network_from(args: argparse.Namespace, given: set[str], checkpoint: dict, path: Path) -> dict:
    """Set the network's arguments to those that a checkpoint was trained with; returns the checkpoint, a published one
    with its weights under our names.

    InputError if a flag that was given contradicts them, or if the checkpoint is of another kind."""
    if "hyper_parameters" in checkpoint:
        model = published_network(checkpoint, str(path))
        if not isinstance(model, PointMAE):
            raise InputError(f"{path}: expected a masked autoencoder, got a {type(model).__name__} network")
        stored = _flags_of(model.config)
        checkpoint = {"model_state": model.state_dict(), "args": stored}
    else:
        stored = checkpoint.get("args")
        if not isinstance(stored, dict) or not {"voxels", "decoder_depth"} <= stored.keys():
            raise InputError(
                f"{path}: not a checkpoint of a masked autoencoder (it does not say how its network was built)"
            )
    take_stored(args, given, stored, path, _NETWORK)
    take_further(args, given, stored, DATA)
    if "hyper_parameters" not in checkpoint and "rng" not in checkpoint:  # published: is anything of it not a flag?
        ours = point_mae_config(args)
        if _without_dropout(ours) != _without_dropout(model.config):
            raise InputError(
                f"{path}: the stored settings describe a network that our flags cannot; expected one like {ours}"
            )
    return checkpoint


def _flags_of(config: PointMAEConfig) -> dict:
    """The flags that describe a published network."""
    return encoder_flags(config.encoder) | {
        "model": "polarmae" if config.energy else "pointmae",
        "decoder_depth": config.decoder.depth,
        "mask_ratio": config.mask_ratio,
    }


def encoder_flags(config: EncoderConfig) -> dict:
    """The flags that describe an encoder; the tokens are written out, so that the preset does not matter."""
    return {
        "arch": config.transformer.arch,
        "depth": config.transformer.depth,
        "published_norms": config.padding_row,
        "voxels": "5",
        **{name: getattr(config.tokenizer, name) for name in _TOKENS},
    }


def _without_dropout(config: PointMAEConfig) -> PointMAEConfig:
    """The part of the settings that weights and their outputs depend on."""
    return replace(
        config, encoder=encoder_without_dropout(config.encoder), decoder=replace(config.decoder, **_NO_DROPOUT)
    )


def encoder_without_dropout(config: EncoderConfig) -> EncoderConfig:
    """The same of an encoder."""
    return replace(config, transformer=replace(config.transformer, **_NO_DROPOUT), sync_batchnorm=False)


def open_clouds(run: Run) -> dict[str, CloudDataset]:
    """The splits that the flags name.  Where there are no test files, the validation events are those to report on."""
    args = run.args
    for flag in ("compile", "test"):
        if getattr(args, flag):
            raise InputError(f"--{flag}: not for point clouds; leave it out")
    selection = CloudSelection(
        args.remove_led,
        args.energy_threshold,
        args.emin,
        min_points=args.min_points,
        skip_bad=args.skip_bad,
    )
    jobs = max(1, args.num_workers)
    wanted = {split: getattr(args, f"num_{split}") for split in SPLIT_NAMES}
    named = (
        [args.testfile] if isinstance(args.testfile, str) else args.testfile
    )  # a name, or '', in the settings of older runs
    testfiles = [path for path in named if path]
    datasets = (
        open_splits(args.datadir, selection, wanted, args.seed, jobs) if not testfiles or not run.evaluating else {}
    )
    if testfiles:
        datasets["test"] = CloudDataset(find_files(testfiles), selection, jobs)
        datasets["test"].restrict(choose_events(None, len(datasets["test"]), args.num_test, args.seed, "test"))
    elif "test" not in datasets and "valid" in datasets:
        log.info(f"{args.datadir}: no test/ folder; the final numbers are of the validation events")
        datasets["test"] = datasets["valid"]
    needed = "test" if run.evaluating else "train"
    if needed not in datasets:
        raise InputError(f"{args.datadir}: no {needed} files (*.h5 in the folder {needed}/)")
    return datasets


class Pictures:
    """Pictures of validation events (of test events, if there are no others), as the flags ask for them.

    draw_(folder, stem, model, dataset, numbers, seed, html): draws events, and returns the files."""

    def __init__(self, run: Run, model: nn.Module, datasets: dict[str, CloudDataset], draw_: Callable = draw_events):
        self.run, self.model, self._draw = run, model, draw_
        self.dataset = datasets.get("valid", datasets.get("test", datasets.get("train")))
        asked = run.args.plot_numbers
        if asked and not all(0 <= number < len(self.dataset) for number in asked):
            raise InputError(f"--plot-numbers: expected 0 to {len(self.dataset) - 1}, got {' '.join(map(str, asked))}")
        if run.args.plot and run.args.plot_html:
            need_plotly()
        self.numbers = asked or range(min(run.args.plot_events, len(self.dataset)))

    def after_row(self, history: list[dict]) -> None:
        """Draw at the first validation after every --plot-every steps."""
        every, step = self.run.args.plot_every, history[-1]["step"]
        before = history[-2]["step"] if len(history) > 1 else 0
        if every and step // every > before // every:
            self.draw(f"step{step:07d}")

    def draw(self, stem: str) -> None:
        """Draw the events with the weights in place."""
        args = self.run.args
        if args.plot and distributed.is_main():
            folder = self.run.paths.logdir / self.run.paths.prefix
            written = self._draw(folder, stem, self.model, self.dataset, self.numbers, args.seed, args.plot_html)
            log.info(f"{len(written)} pictures: {folder}/{stem}.*")


def train_with_pictures(
    run: Run, task, datasets: dict[str, CloudDataset], start, draw: Callable, pictures: Pictures, report=None
) -> list[dict]:
    """`train_and_evaluate` with pictures of events along the way and at the end.  report(all rows so far): called after each."""

    def after_row(history: list[dict]) -> None:
        pictures.after_row(history)
        if report is not None:
            report(history)

    history = train_and_evaluate(run, task, datasets, start, draw, after_row)
    pictures.draw("end")
    return history
