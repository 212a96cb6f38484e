"""From flags, or from a checkpoint's flags, to a PELICAN network."""

import argparse
from dataclasses import fields
from pathlib import Path

from puffin.cli.arguments import norm_name, take_further, take_stored
from puffin.errors import InputError
from puffin.models.pelican import PelicanConfig

# settings of the data that a network was trained with; taken from the checkpoint unless given
_DATA_SETTINGS = ("nobj", "scale", "target", "dataset", "read_pid", "scalars_keys")
# what the loss and the weighted metrics are made of: an evaluation repeats the numbers of the training unless told otherwise
_LOSS_SETTINGS = ("loss", "class_weights", "weights_key")
_NAMES = tuple(f.name for f in fields(PelicanConfig) if f.name != "num_scalars")


def _widths(value) -> list:
    value = [value] if isinstance(value, int) else list(value)
    return list(value[0]) if len(value) == 1 and isinstance(value[0], (list, tuple)) else value


def _blocks(value) -> list[list[int]]:
    """Message widths of each block, from numbers, lists, or one JSON list of lists."""
    if len(value) == 1 and isinstance(value[0], list) and value[0] and all(isinstance(b, list) for b in value[0]):
        value = value[0]
    return [[b] if isinstance(b, int) else list(b) for b in value]


def pelican_config(args: argparse.Namespace, num_scalars: int = 0) -> PelicanConfig:
    """The network that the flags describe, for num_scalars features of each particle; InputError if they contradict
    each other."""
    chosen = {name: getattr(args, name) for name in _NAMES} | {"num_scalars": num_scalars}
    for name in ("num_channels_2to2", "num_channels_m_out", "num_channels_out"):
        chosen[name] = tuple(_widths(chosen[name]))
    chosen["num_channels_m"] = tuple(map(tuple, _blocks(chosen["num_channels_m"])))
    try:
        return PelicanConfig(**chosen)
    except (ValueError, TypeError) as error:
        raise InputError(f"network flags: {error}") from error


def take_network_from(args: argparse.Namespace, given: set[str], checkpoint: dict, path: Path) -> None:
    """Set the network's arguments to those that a checkpoint was trained with.

    InputError if a flag that was given contradicts them, or if the checkpoint is of another kind."""
    stored = checkpoint.get("args")
    stored = (
        dict(stored) if isinstance(stored, dict) else vars(stored) if isinstance(stored, argparse.Namespace) else None
    )
    if stored is None or not {"num_channels_m", "stabilizer"} <= stored.keys():
        raise InputError(f"{path}: not a PELICAN checkpoint (it does not say how its network was built)")
    ours = "git_commit" in checkpoint
    if not ours:
        # published networks keep their diagonal maps, and write their norm as a letter
        stored = {
            **stored,
            "irc_diagonal": True,
            "published_projections": True,
            "batchnorm": norm_name(stored.get("batchnorm")),
        }
        stored["dataset"] = stored.get("dataset") or "jet"
    fixed = [name for name in _NAMES if name not in ("drop_rate", "drop_rate_out", "sync_batchnorm", "scale")]
    take_stored(args, given, stored, path, fixed, _plain)
    for name in _DATA_SETTINGS:
        if stored.get(name) is not None and name not in given:
            setattr(args, name, stored[name])


def take_loss_from(args: argparse.Namespace, given: set[str], checkpoint: dict, path: Path) -> None:
    """Set what the loss is made of to what a checkpoint of ours was trained with, unless given.

    Balanced class weights are those that the training has counted, never those of what is evaluated; InputError if it has none."""
    wish, stored = getattr(args, "class_weights", "none"), checkpoint["args"] if "git_commit" in checkpoint else {}
    take_further(args, given - {"class_weights"} if wish == "balanced" else given, stored, _LOSS_SETTINGS)
    found = getattr(args, "class_weights", "none")
    if found == "balanced" or (wish == "balanced" and found == "none"):
        raise InputError(
            f"--class-weights balanced: {path} holds no class weights that its training has counted; give numbers, or none"
        )


def _plain(name: str, value):
    """Widths in one spelling, so that they can be compared."""
    if name == "num_channels_m":
        return _blocks(value)
    return _widths(value) if name.startswith("num_channels_") and name != "num_channels_scalar" else value
