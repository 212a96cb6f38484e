#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Write a small checkpoint to share: weights and settings, without the state of the training and paths of the machine.

    python3 tools/export_weights.py model/unet_best.pt weights/lartpc_unet.pt --half

The file can be evaluated, fine-tuned and loaded with `puffin.load`, but a run cannot be resumed from it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import InputError, explain_missing_packages
from puffin.settings.parser import OneLineParser


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="FILE", help="a checkpoint that a training script wrote")
    add("out", type=Path, metavar="OUT", help="file to write")
    add("--half", action="store_true", help="store the weights in half precision: half the size, 3 digits")
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # --help and bad flags are answered before the imports that take seconds
    explain_missing_packages()
    parse_arguments()

from puffin.checkpoints.checkpoint import PUFFIN, Checkpoint
from puffin.checkpoints.networks import SCHEMAS
from puffin.checkpoints.writing import save_checkpoint
from puffin.runs.entry import run_script
from puffin.settings import roles
from puffin.settings.declare import declared


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the checkpoint and write the small one."""
    args = parse_arguments(arguments)
    if args.out.exists() and not args.overwrite:
        raise InputError(f"{args.out}: already exists; choose another OUT or pass --overwrite")
    found = Checkpoint.read(args.checkpoint).expect(*SCHEMAS)
    if found.origin != PUFFIN:
        raise InputError(f"{args.checkpoint}: expected a checkpoint that Puffin wrote, found one of other code")
    weights = {
        name: weight.half() if args.half and weight.is_floating_point() else weight
        for name, weight in found.weights.items()
    }
    machine = {entry.name for entry in declared(SCHEMAS[found.network]) if entry.setting.role is roles.MACHINE}
    settings = {
        name: value for name, value in found.settings.items() if name not in machine and not _is_of_this_machine(value)
    }
    content = {"git_commit": found.commit, "run_id": found.run_id, "args": settings}
    save_checkpoint(args.out, content | {"model_state": weights})
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB")


def _is_of_this_machine(value: object) -> bool:
    """Return whether a setting is an absolute path, or holds one, such as a folder of events."""
    texts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(text, str) and Path(text).is_absolute() for text in texts)


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
