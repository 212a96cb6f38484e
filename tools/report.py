#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Write one HTML page about runs and sweeps: settings, curves, metrics with errors, figures, events in 3D.

    python3 tools/report.py top                      # the run top, or all runs top-s1, top-s2, ...
    python3 tools/report.py top few --reference top  # a comparison

The page is a single file that needs no server and no network. docs/report_runs.md describes what it shows.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages
from puffin.settings.common import FOLDERS, RunSettings
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    text = "a run, a sweep, or NAME for all runs NAME-sSEED, which count as one method"
    add("names", nargs="+", metavar="PREFIX", help=text)
    add("--out", type=Path, metavar="HTML", help="file to write (default: the first PREFIX, with .html, in log/)")
    add(
        "--reference", default="", metavar="NAME", help="method with which the others are compared (default: the first)"
    )
    text = "bootstrap samples of the test events (default: %(default)s)"
    add("--resamples", type=integer(2), default=500, metavar="R", help=text)
    text = "write the page again whenever a file of the runs changes, until Ctrl-C; the browser follows"
    add("--watch", action="store_true", help=text)
    text = "with --watch: seconds between two looks at the files (default: %(default)s)"
    add("--every", type=integer(1), default=10, metavar="S", help=text)
    for name in FOLDERS:
        default = getattr(RunSettings, name)
        add(f"--{name}", default=default, metavar="DIR", help=f"as for the training scripts (default: {default})")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # --help and bad flags are answered before the imports that take seconds
    explain_missing_packages()
    parse_arguments()

from puffin.errors import InputError, nearest
from puffin.files import size_in_words
from puffin.report.collect import Run, Sweep, by_method, find, stamps
from puffin.report.page import sections_of, write_page
from puffin.runs.entry import run_script
from puffin.runs.paths import RunPaths


def chosen(args: argparse.Namespace) -> tuple[list[Run], list[Sweep]]:
    """Find the runs and sweeps; InputError if one does not exist, or if --reference is none of them."""
    runs, sweeps = find(args.names, folders_of(args))
    methods = by_method(runs)
    if args.reference and args.reference not in methods:
        found = ", ".join(methods)
        raise InputError(
            f"--reference {args.reference}: no such method{nearest(args.reference, methods)}; choose from {found}"
        )
    return runs, sweeps


def folders_of(args: argparse.Namespace) -> RunSettings:
    """Return where the files of runs are."""
    return RunSettings(**{name: getattr(args, name) for name in FOLDERS})


def write(args: argparse.Namespace, refresh: int = 0) -> None:
    """Write the page. refresh [s]: as for `write_page`."""
    runs, sweeps = chosen(args)
    out = args.out or RunPaths.of(folders_of(args)).logdir / f"{args.names[0]}.html"
    title = ", ".join([*by_method(runs), *(sweep.name for sweep in sweeps)])
    write_page(out, title, sections_of(runs, sweeps, args.reference, args.resamples), refresh)
    print(f"{time.strftime('%H:%M:%S')} report: {out} ({size_in_words(out.stat().st_size)})", flush=True)


def watch(args: argparse.Namespace) -> None:
    """Write the page whenever a file of the runs has changed, until Ctrl-C; then once more, for good."""
    written: dict[Path, int] = {}
    try:
        while True:
            found = stamps(*chosen(args))
            if found != written:
                write(args, args.every)
                written = found
            time.sleep(args.every)
    except KeyboardInterrupt:
        write(args)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page once, or whenever the files change."""
    args = parse_arguments(arguments)
    watch(args) if args.watch else write(args)


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
