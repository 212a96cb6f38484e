"""Flags of the published scripts, and of our older ones, that have no effect here: accepted, or refused with the
reason."""

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

from puffin.errors import InputError


class Obsolete(NamedTuple):
    """accepted: values that change nothing (None: any); reason: why others are refused, or why none has an effect."""

    accepted: tuple[str, ...] | None
    reason: str

    def refusal(self, value: Any) -> str:
        """Return the reason why a value is refused; "" if it is accepted."""
        accepted = self.accepted is None or str(value).lower() in self.accepted
        return "" if accepted else self.reason


_FILES = Obsolete(("",), "files are named after --prefix, in --logdir, --modeldir and --predictdir")
_EVERY_BATCH = Obsolete(("true",), "the learning rate changes with every minibatch, not with every epoch")
_SWEEPS = "hyperparameter searches are run by optuna_search.py"

OBSOLETE = {
    "alpha": Obsolete(None, "the log shows the losses themselves"),
    "textlog": Obsolete(None, "--verbose logs minibatches"),
    "quiet": Obsolete(None, "there are no such warnings"),
    "masked": Obsolete(None, "events are packed, so there is no padding to mask"),
    "fix-data": Obsolete(None, "subsets of events depend on --seed alone"),
    "rank1-width-multiplier": Obsolete(None, "the networks have no such channels"),
    "lr-minibatch": _EVERY_BATCH,
    "lr-mb": _EVERY_BATCH,
    "lr-decay": Obsolete(("-1",), "the decay lasts as long as the training; choose its form with --lr-decay-type"),
    "sgd-restart": Obsolete(("-1",), "warm restarts are --lr-decay-type warm"),
    "weight-init": Obsolete(("randn",), "there is one initialisation, the published one"),
    "force-download": Obsolete(("false",), "runs download nothing; tools/download.py gets published data"),
    "checkfile": _FILES,
    "bestfile": _FILES,
    "logfile": _FILES,
    "predictfile": _FILES,
}
OBSOLETE_OF_SWEEPS = {
    "study-name": Obsolete(("nosave",), _SWEEPS),
    "storage": Obsolete(("local",), _SWEEPS),
    "sampler": Obsolete(None, _SWEEPS),
    "pruner": Obsolete(None, _SWEEPS),
    "host": Obsolete(None, _SWEEPS),
    "port": Obsolete(None, _SWEEPS),
    "optuna-test": Obsolete(("false",), _SWEEPS),
    "password": Obsolete((), "all users of the machine can see a password on the command line; use PGPASSWORD"),
}


class _Check(argparse.Action):
    """Accept the flag with a value, or alone for true, and --no-flag for false, if `flags` accepts that."""

    def __init__(self, *args, flags: Mapping[str, Obsolete], **kwargs):
        super().__init__(*args, **kwargs)
        self.flags = flags

    def __call__(self, parser, namespace, values, option_string=None):
        name = option_string.lstrip("-")
        value = "false" if name.startswith("no-") else "true" if values is None else values
        reason = self.flags[name.removeprefix("no-")].refusal(value)
        if reason:
            shown = "" if name == "password" or values is None else f" {values}"
            raise InputError(f"{option_string}{shown}: {reason}")


def add_obsolete_flags(parser: argparse.ArgumentParser, flags: Mapping[str, Obsolete]) -> None:
    """Add the flags to a parser, hidden from --help."""
    for name in flags:
        parser.add_argument(
            f"--{name}",
            f"--no-{name}",
            action=_Check,
            flags=flags,
            nargs="?",
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
