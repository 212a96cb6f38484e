"""A new run that starts from the weights of a pretrained network: --pretrained."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from puffin.checkpoints.checkpoint import SCRIPTS, Checkpoint
from puffin.checkpoints.networks import SCHEMAS
from puffin.checkpoints.reading import about_missing, checkpoint_path
from puffin.errors import InputError
from puffin.runs.start import FINETUNE, Start
from puffin.settings.flags import Flags, settings_of
from puffin.settings.roles import Role


def take_pretrained(
    found: Start,
    networks: tuple[str, ...],
    roles: Callable[[Checkpoint], Mapping[str, Role]],
    older: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Start, Checkpoint | None]:
    """Take over the settings of the network of --pretrained; return its checkpoint too, None if no weights are needed.

    networks: kinds of checkpoints (checkpoint.py) that the script can start from; roles: of settings that have another
    role than with --loadfile, because the head is new; older: values of settings that older checkpoints do not store.
    InputError if flags contradict each other or the checkpoint, or if that is of another network."""
    flags = found.flags
    name, loadfile = flags["pretrained"], flags["loadfile"]
    if found.evaluating or flags["test"]:
        _check_unused(flags)
        return found, None
    if found.resuming:
        return found, None
    _check(flags)
    if not name:
        return found.noting(f"initial weights: {loadfile or 'random'}"), None
    path = checkpoint_path(name)
    if not path.is_file():
        scripts = " or ".join(SCRIPTS[network] for network in networks)
        raise InputError(f"--pretrained {about_missing(path)}; make one with {scripts}")
    checkpoint = Checkpoint.read(path)
    if checkpoint.network not in networks:
        kind = f"found a {checkpoint.network}" if checkpoint.network else "found no network that we know"
        hint = "; start from it with --loadfile" if SCHEMAS.get(checkpoint.network) is flags.schema else ""
        raise InputError(f"--pretrained {name}: not a checkpoint of a {' or '.join(networks)}, {kind}{hint}")
    flags = flags.starting_from({**older, **checkpoint.settings}, FINETUNE, name, roles(checkpoint))
    weights = f"random, with the settings of {path}" if flags["scratch"] else f"{path}, but for a new head"
    return replace(found, flags=flags).noting(f"initial weights: {weights}"), None if flags["scratch"] else checkpoint


def _check_unused(flags: Flags) -> None:
    """Raise InputError for flags of the command line (presets may have them) that only a training uses."""
    for name in ("pretrained", "scratch"):
        if name in flags.typed and flags[name]:
            use = "a symmetry report" if flags["test"] else "an evaluation"
            raise InputError(
                f"--{name}: {use} uses the network of --loadfile, or of --prefix, as it is; leave the flag out"
            )


def _check(flags: Flags) -> None:
    """Raise InputError for flags that contradict each other."""
    name, loadfile, finetune = flags["pretrained"], flags["loadfile"], flags["finetune"]
    everything = settings_of(flags.schema)["finetune"].default
    if loadfile and name:
        raise InputError(
            f"--pretrained {name}, --loadfile {loadfile}: use only one of them; a checkpoint given by --loadfile "
            "already contains a whole network"
        )
    if finetune != everything and not loadfile and (flags["scratch"] or not name):
        raise InputError(
            f"--finetune {finetune}: random weights would never be trained; give --pretrained FILE without --scratch, "
            f"or use --finetune {everything}"
        )
    if flags["layer_decay"] < 1 and finetune != everything:
        raise InputError(
            f"--layer-decay {flags['layer_decay']:g}: only --finetune {everything} trains the blocks, got {finetune}"
        )
