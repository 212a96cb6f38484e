"""What the scripts in data/ share: parsers, checks of outputs, progress bars, and errors in one line.

Needs no PyTorch.
"""

import argparse
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from puffin.errors import InputError, is_missing_package, missing_package, not_a_file
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show the description as it is written, and the default of every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required or action.default is None or (action.default is False and action.nargs == 0):
            return action.help
        return super()._get_help_string(action)


class Parser(OneLineParser):
    """A parser that shows defaults in --help and reports a bad flag in one line."""

    def __init__(self, **options):
        super().__init__(formatter_class=_HelpFormatter, **options)


def local_path(text: str) -> Path:
    """Convert a flag to a path; argparse reports addresses such as root://host//file, which a Path would garble."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        tool = "xrdcp" if text.startswith(("root://", "xroot")) else "wget or curl"
        raise argparse.ArgumentTypeError(f"{text}: expected a file, got an address. Copy the file first, with {tool}.")
    return Path(text)


def converter_parser(doc: str, inputs: str, nobj: str) -> Parser:
    """Make a parser with the flags of every converter of jets.

    doc: docstring of the script; inputs: help of the input files; nobj: what --nobj is by default."""
    parser = Parser(description=doc)
    parser.add_argument("inputs", nargs="+", type=local_path, help=inputs)
    parser.add_argument("--out", type=local_path, required=True, help="HDF5 file to write; missing folders are created")
    parser.add_argument(
        "--nobj", type=integer(1), help=f"maximum number of particles per jet, hardest first (default: {nobj})"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing output files")
    return parser


def check_outputs(args: argparse.Namespace, outputs: Sequence[Path]) -> None:
    """Check the paths of a converter: InputError for a missing input, and for an output that is an input or exists."""
    for path in args.inputs:
        if not path.is_file():
            raise InputError(not_a_file(path))
    for path in outputs:
        if path.resolve() in [p.resolve() for p in args.inputs]:
            raise InputError(f"{path}: is an input. Choose another --out.")
        if path.exists() and not args.overwrite:
            raise InputError(f"{path}: already exists. Choose another --out or pass --overwrite.")


def split_path(path: Path, split: str) -> Path:
    """Return the path of a split's file: jets.h5 becomes jets_train.h5."""
    return path.with_name(f"{path.stem}_{split}{path.suffix}")


def progress(total: int, name: str) -> tqdm:
    """Make a progress bar over jets: redrawn on a terminal, one line per minute elsewhere.

    It moves at least that often after a leap too, for example over jets that an earlier call has made."""
    return tqdm(total=total, desc=name, unit="jet", mininterval=0.5 if sys.stderr.isatty() else 60, miniters=1)


def run_converter(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Call a converter's main; after a failure, Ctrl-C or SIGTERM, exit with one line and a non-zero status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(argv)
    except KeyboardInterrupt:
        sys.exit("interrupted; incomplete files were removed")
    except InputError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except Exception as error:  # whatever else fails is reported in one line as well
        if is_missing_package(error):
            sys.exit(f"error: {missing_package(error.name or '')}")
        sys.exit(f"error: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
