"""Flags of the published scripts that do nothing, or nothing good, here: accepted silently, or refused with the reason."""

import argparse
from typing import NamedTuple

from puffin.errors import InputError


class _Obsolete(NamedTuple):
    """accepted: values that change nothing (None: any); reason: why others are refused, or why it has no effect."""

    accepted: tuple | None
    reason: str


_FILES = _Obsolete(("",), "files are named after --prefix, in --logdir, --modeldir and --predictdir")
_EVERY_BATCH = _Obsolete(("true",), "the learning rate changes with every batch; there is no stepping by epoch")
_SWEEPS = "sweeps are run by optuna_search.py"

OBSOLETE = {
    "alpha": _Obsolete(None, "the log shows the losses themselves"),
    "textlog": _Obsolete(None, "--verbose logs batches"),
    "quiet": _Obsolete(None, "there are no such warnings"),
    "fix-data": _Obsolete(None, "subsets of events depend on --seed alone"),
    "rank1-width-multiplier": _Obsolete(None, "the networks have no such channels"),
    "lr-minibatch": _EVERY_BATCH,
    "lr-mb": _EVERY_BATCH,
    "lr-decay": _Obsolete(("-1",), "the decay lasts as long as the training; choose its form with --lr-decay-type"),
    "sgd-restart": _Obsolete(("-1",), "warm restarts are --lr-decay-type warm"),
    "weight-init": _Obsolete(("randn",), "there is one initialisation, the published one"),
    "force-download": _Obsolete(("false",), "nothing is downloaded; docs/DATA.md says how to get the data"),
    "checkfile": _FILES,
    "bestfile": _FILES,
    "logfile": _FILES,
    "predictfile": _FILES,
}
OBSOLETE_OF_SWEEPS = {
    "study-name": _Obsolete(("nosave",), _SWEEPS),
    "storage": _Obsolete(("local",), _SWEEPS),
    "sampler": _Obsolete(None, _SWEEPS),
    "pruner": _Obsolete(None, _SWEEPS),
    "host": _Obsolete(None, _SWEEPS),
    "port": _Obsolete(None, _SWEEPS),
    "optuna-test": _Obsolete(("false",), _SWEEPS),
    "password": _Obsolete(
        (), "a password on the command line is seen by all users of the machine; put it into PGPASSWORD"
    ),
}


class _Check(argparse.Action):
    """Takes the flag with its value, or alone for true, and --no-flag for false; refuses what is not accepted."""

    def __call__(self, parser, namespace, values, option_string=None):
        name = option_string.lstrip("-")
        value = "false" if name.startswith("no-") else "true" if values is None else str(values).lower()
        flag = (OBSOLETE | OBSOLETE_OF_SWEEPS)[name.removeprefix("no-")]
        if flag.accepted is not None and value not in flag.accepted:
            shown = "" if name == "password" or values is None else f" {values}"
            raise InputError(f"{option_string}{shown}: {flag.reason}")


def add_published_arguments(parser: argparse.ArgumentParser, sweep: bool = False) -> None:
    """The flags above, out of --help; those of sweeps only where the script runs none itself."""
    for name in OBSOLETE if sweep else OBSOLETE | OBSOLETE_OF_SWEEPS:
        parser.add_argument(
            f"--{name}",
            f"--no-{name}",
            action=_Check,
            nargs="?",
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
