"""From flags, or from checkpoints, to a segmentation network and its task."""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from puffin.checkpoints.published_clouds import published_network
from puffin.checkpoints.reading import read_checkpoint
from puffin.cli.arguments import OnOff, checked, parse_numbers, parse_terms, take_further, take_stored
from puffin.cli.clouds import (
    DATA,
    ENCODER,
    add_encoder_arguments,
    add_picture_arguments,
    encoder_config,
    encoder_flags,
    encoder_without_dropout,
)
from puffin.data.pilarnet import CloudDataset
from puffin.detector import PILARNET
from puffin.errors import InputError
from puffin.losses.clouds import CLASS_LOSSES, LossTerms
from puffin.models.point_mae import PointMAE
from puffin.models.segmentation import FINETUNE, Segmentation, SegmentationConfig, spread_layers
from puffin.runs.run import Run, log, weights_of
from puffin.tasks.segmentation import PointSegmentation
from puffin.training import distributed

WEIGHTS = ("pilarnet", "data", "none")
_HEAD = ("layers", "head_depth", "head_dim", "remove_led")
_LORA = ("lora_rank", "lora_alpha")
_EVENTS = 64  # counted together


def add_segmentation_arguments(parser: argparse.ArgumentParser) -> None:
    """The network, what of it learns, the loss, and pictures."""
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--finetune",
        choices=FINETUNE,
        default="fft",
        help="what of the encoder learns: all, nothing (a probe), or low-rank updates of its attention; the head always does",
    )
    group.add_argument(
        "--pretrained",
        default="",
        metavar="FILE",
        help="masked autoencoder, ours or published, whose encoder and its settings to take (none: from random weights)",
    )
    group.add_argument(
        "--scratch",
        action=OnOff,
        default=False,
        help="with --pretrained: only its settings, and random weights, to compare with",
    )
    group.add_argument(
        "--layer-decay",
        type=float,
        default=1.0,
        metavar="F",
        help="with fft: factor of the learning rate from each block to the one before it; try 0.75",
    )
    group.add_argument("--lora-rank", type=int, default=8, metavar="N", help="rank of the updates")
    group.add_argument("--lora-alpha", type=float, default=16.0, metavar="A", help="updates are multiplied by A / rank")

    group = parser.add_argument_group("loss")
    group.add_argument(
        "--loss",
        type=checked(partial(parse_terms, names=tuple(CLASS_LOSSES))),
        default="focal",
        metavar="TERMS",
        help=f"terms and their weights, as focal:1,dice:1 ({', '.join(CLASS_LOSSES)})",
    )
    group.add_argument(
        "--class-weights",
        type=checked(partial(parse_numbers, words=WEIGHTS), *WEIGHTS),
        default="pilarnet",
        metavar="W",
        help="all points over those of the class, in PILArNet-M's training set or in this one (data); none; or a weight for each class, as 1,1,20,5",
    )

    group = parser.add_argument_group("network")
    group.add_argument(
        "--layers",
        type=int,
        nargs="+",
        default=None,
        metavar="BLOCK",
        help="blocks of the encoder, counted from 0, whose outputs are averaged (None: 3 7 11 of 12, else at the same fractions)",
    )
    group.add_argument(
        "--head-depth",
        type=int,
        default=0,
        metavar="N",
        help="transformer blocks on the tokens, between encoder and points",
    )
    group.add_argument(
        "--head-dim",
        type=int,
        default=512,
        metavar="N",
        help="width of the head's first layer, half of it in the second",
    )
    group.add_argument("--head-dropout", type=float, default=0.5, help="dropout between the two")
    add_encoder_arguments(group)
    add_picture_arguments(parser.add_argument_group("pictures"))


def segmentation_config(args: argparse.Namespace) -> SegmentationConfig:
    """The network that the flags describe; InputError if they contradict each other."""
    try:
        if args.layers is None:
            args.layers = list(spread_layers(args.depth))
        return SegmentationConfig(
            encoder_config(args),
            4 if args.remove_led else 5,
            tuple(args.layers),
            args.head_dim,
            args.head_dropout,
            head_depth=args.head_depth,
            finetune=args.finetune,
            lora_rank=args.lora_rank,
            lora_alpha=args.lora_alpha,
        )
    except ValueError as error:
        raise InputError(f"network flags: {error}") from error


def check_flags(args: argparse.Namespace) -> None:
    """InputError for flags that do not go together."""
    if not 0 < args.layer_decay <= 1:
        raise InputError(f"--layer-decay: expected a number above 0, at most 1, got {args.layer_decay}")
    if args.layer_decay < 1 and args.finetune != "fft":
        raise InputError(
            f"--layer-decay {args.layer_decay}: the encoder learns as a whole only with --finetune fft, got {args.finetune}"
        )
    if args.predict_format != "h5":
        raise InputError(
            f"--predict-format {args.predict_format}: expected h5, which points are written to as they come"
        )


def check_evaluation(flags: dict) -> None:
    """InputError for flags of the command line (a preset may have them) that an evaluation would not look at."""
    for name in ("pretrained", "scratch"):
        if flags.get(name):
            raise InputError(
                f"--{name}: an evaluation takes the network of --loadfile, or of --prefix, as it is; leave the flag out"
            )


# -- checkpoints ----------------------------------------------------------------------------------------------------


def take_segmentation_from(args: argparse.Namespace, given: set[str], checkpoint: dict, path: Path) -> dict:
    """Set the network's arguments to those that a checkpoint was trained with; returns the checkpoint, a published one
    with its weights under our names.

    InputError if a flag that was given contradicts them, or if the checkpoint is of another kind."""
    published = "hyper_parameters" in checkpoint
    if published:
        model = published_network(checkpoint, str(path))
        if not isinstance(model, Segmentation):
            raise InputError(
                f"{path}: expected a segmentation network, got a {type(model).__name__} network; to fine-tune it: --pretrained {path}"
            )
        checkpoint = {"model_state": model.state_dict(), "args": _flags_of(model.config, path)}
    stored = checkpoint.get("args")
    if not isinstance(stored, dict) or not {"voxels", "finetune"} <= stored.keys():
        hint = (
            f"; to fine-tune it: --pretrained {path}" if isinstance(stored, dict) and "decoder_depth" in stored else ""
        )
        raise InputError(f"{path}: not a checkpoint of a segmentation network{hint}")
    take_stored(args, given, stored, path, (*ENCODER, *_HEAD))
    if "lora" in (stored["finetune"], args.finetune) or "finetune" not in given:  # else the weights are the same
        take_stored(args, given, stored, path, ("finetune",))
    if args.finetune == "lora":
        take_stored(args, given, stored, path, _LORA)
    take_further(args, given, stored, (*DATA, "loss", "class_weights"))
    if published and _same_outputs(segmentation_config(args)) != _same_outputs(model.config):
        raise InputError(
            f"{path}: the stored settings describe a network that our flags cannot; expected one like {segmentation_config(args)}"
        )
    return checkpoint


def take_pretrained(args: argparse.Namespace, given: set[str]) -> dict[str, Tensor] | None:
    """Set the encoder's arguments to those of --pretrained; returns its weights, None if there are none to take.

    InputError if a flag that was given contradicts them, if it is no masked autoencoder, or if one is needed."""
    if args.loadfile and args.pretrained:
        raise InputError(
            f"--pretrained {args.pretrained}, --loadfile {args.loadfile}: expected one of them; the second has an encoder already"
        )
    if args.finetune != "fft" and not args.loadfile and (args.scratch or not args.pretrained):
        raise InputError(
            f"--finetune {args.finetune}: would leave random weights as they are; give --pretrained FILE without --scratch, or use --finetune fft"
        )
    if not args.pretrained:
        log.info("encoder: " + (f"that of {args.loadfile}" if args.loadfile else "random weights"))
        return None
    path = Path(args.pretrained)
    if not path.is_file():
        raise InputError(f"--pretrained {path}: no such file; make one with train_pointmae.py")
    checkpoint = read_checkpoint(path)
    if "hyper_parameters" in checkpoint:
        model = published_network(checkpoint, str(path))
        if not isinstance(model, PointMAE):
            raise InputError(
                f"--pretrained {path}: expected a masked autoencoder, got a {type(model).__name__} network; start from it with --loadfile"
            )
        checkpoint = {"model_state": model.state_dict(), "args": encoder_flags(model.config.encoder)}
    stored = checkpoint.get("args")
    if not isinstance(stored, dict) or "finetune" in stored or not set(ENCODER) <= stored.keys():
        hint = "; start from it with --loadfile" if isinstance(stored, dict) and "finetune" in stored else ""
        raise InputError(f"--pretrained {path}: not a checkpoint of a masked autoencoder{hint}")
    take_stored(args, given, stored, path, ENCODER)
    take_further(args, given, stored, DATA)
    log.info(f"encoder: {f'random weights, with the settings of {path}' if args.scratch else path}")
    if args.scratch:
        return None
    weights = weights_of(checkpoint, path)
    return {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}


def load_encoder_(model: Segmentation, weights: dict[str, Tensor], path: str) -> None:
    """Put pretrained weights into a network's encoder; the low-rank updates, which they lack, stay as they begin."""
    try:
        result = model.encoder.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise InputError(f"--pretrained {path}: {str(error).splitlines()[-1].strip()[:200]}") from error
    missing = [name for name in result.missing_keys if not name.endswith((".up", ".down"))]
    if missing or result.unexpected_keys:
        raise InputError(
            f"--pretrained {path}: the weights are of another encoder ({(missing + result.unexpected_keys)[0]})"
        )


def _flags_of(config: SegmentationConfig, path: Path) -> dict:
    """The flags that describe a published network."""
    if config.num_classes not in (4, 5):
        raise InputError(f"{path}: expected 4 classes, or 5 with low-energy deposits, got {config.num_classes}")
    return encoder_flags(config.encoder) | {
        "layers": list(config.layers),
        "head_depth": 0,
        "head_dim": config.head_dim,
        "remove_led": config.num_classes == 4,
        "finetune": "fft",
    }


def _same_outputs(config: SegmentationConfig) -> SegmentationConfig:
    """The part of the settings that weights and their outputs depend on."""
    return replace(config, encoder=encoder_without_dropout(config.encoder), dropout=0.0, finetune="fft")


# -- the task -------------------------------------------------------------------------------------------------------


def make_task(run: Run, model: Segmentation, datasets: dict[str, CloudDataset]) -> PointSegmentation:
    """Loss and outputs that the flags describe; weights that are counted become numbers of --class-weights, so that the
    checkpoints hold them."""
    args = run.args
    for dataset in datasets.values():
        dataset.selection = replace(dataset.selection, strict_led=True)
    for split in set(args.predict) & datasets.keys():
        datasets[split].selection = replace(datasets[split].selection, rows=True)
    if args.class_weights == "data":
        if "train" not in datasets:
            raise InputError(
                "--class-weights data: expected training events in --datadir; give those that were used, or numbers"
            )
        counts = class_counts(datasets["train"], model.config.num_classes) if distributed.is_main() else None
        weights = inverse_shares(distributed.from_main(counts))
        args.class_weights = ",".join(f"{weight:.8g}" for weight in weights.tolist())
        log.info(f"class weights: {args.class_weights}")
    loss = LossTerms(
        parse_terms(args.loss, tuple(CLASS_LOSSES)), weights_of_classes(args.class_weights, model.config.num_classes)
    )
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen:
        log.info(f"{frozen:,} parameters stay as they are")
    best = Path(args.loadfile) if run.evaluating and args.loadfile else run.paths.best
    checkpoints = {"best": best, "final": run.paths.checkpoint}
    return PointSegmentation(model, loss, datasets, args.rotate, args.layer_decay, args.plot, checkpoints)


def weights_of_classes(wish: str, num_classes: int) -> Tensor | None:
    """(C,) float64 from --class-weights."""
    if wish == "none":
        return None
    if wish == "pilarnet":
        return inverse_shares(torch.tensor(PILARNET.class_counts[:num_classes]))
    numbers = parse_numbers(wish, WEIGHTS)
    if len(numbers) != num_classes:
        raise InputError(f"--class-weights: expected {num_classes} numbers, one for each class, got {len(numbers)}")
    return torch.tensor(numbers, dtype=torch.float64)


def inverse_shares(counts: Tensor) -> Tensor:
    """All points over those of each class, (C,) float64; 0 for a class without points."""
    counts = counts.double()
    return torch.where(counts > 0, counts.sum() / counts.clamp_min(1), 0)


def class_counts(dataset: CloudDataset, num_classes: int) -> Tensor:
    """Points of each class (C,) int64 in a data set, which has no other classes."""
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for start in tqdm(range(0, len(dataset), _EVENTS), desc="class weights", unit="batch", disable=None, leave=False):
        batch = dataset.__getitems__(list(range(start, min(start + _EVENTS, len(dataset)))))
        counts += torch.bincount(batch.semantic, minlength=num_classes)
    return counts
