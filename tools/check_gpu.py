#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Check Puffin on a GPU: every kernel, networks, scripts and speeds; print a report and write it to a file.

    python3 tools/check_gpu.py                 # about ten minutes; the report is gpu_report.txt
    python3 tools/check_gpu.py --quick         # a minute or two, with small inputs
    python3 tools/check_gpu.py --device cpu    # check the CPU kernels; checks that need CUDA are skipped

The exit status is 1 if a check has failed.  docs/check_your_gpu.md explains the report.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import InputError, explain_missing_packages
from puffin.settings.parser import OneLineParser

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("operators", "networks", "scripts", "speeds")


def make_parser() -> OneLineParser:
    """Return the parser of this tool's flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="what to check (default: %(default)s)")
    add("--quick", action="store_true", help="use small inputs and networks (default: the sizes of training)")
    add(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=SECTIONS,
        help="parts of the report to make (default: all of them)",
    )
    add(
        "--datadir",
        type=Path,
        default=ROOT / "data/sample_data",
        metavar="DIR",
        help="folder that holds jets in run12/ and LArTPC events in lartpc/ (default: data/sample_data)",
    )
    add(
        "--out",
        type=Path,
        default=Path("gpu_report.txt"),
        metavar="FILE",
        help="file of the report; an existing one is overwritten (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":  # --help and bad flags are answered before the imports that take seconds
    explain_missing_packages()
    make_parser().parse_args()

import torch

from bench.gpu import machine, networks, operators, scripts, speeds
from bench.gpu.report import Report
from puffin.runs.entry import run_script


def make_report(args: argparse.Namespace) -> Report:
    """Run the checks of the sections that the flags name."""
    device, report = torch.device(args.device, 0 if args.device == "cuda" else None), Report()
    machine.describe(report, device)
    report.check("kernels", lambda: machine.kernels_loaded(device))
    if "operators" in args.only:
        operators.check(report, device, args.quick)
    if "networks" in args.only:
        networks.check(report, device, args.quick)
    if "scripts" in args.only:
        with tempfile.TemporaryDirectory() as work:
            data = args.datadir.resolve()
            scripts.check(report, device, data / "run12", data / "lartpc", Path(work))
    if "speeds" in args.only:
        speeds.check(report, device, args.quick)
    return report


def main(argv: list[str] | None = None) -> None:
    """Make the report; exit with status 1 if a check has failed, or without a GPU."""
    args = make_parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no GPU"
        raise InputError(f"no GPU to check: {why}. Install a CUDA build of PyTorch, or pass --device cpu")
    if not args.out.resolve().parent.is_dir():
        raise InputError(f"--out {args.out}: there is no folder {args.out.parent}. Create it, or choose another file")
    status = make_report(args).finish(args.out)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    run_script(main, hint="")
