#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Train or evaluate a PELICAN regressor of four-momenta.

Example (momenta of top quarks from simulated jets; jets without a top quark are skipped):
  python3 train_pelican_cov.py --yaml config/11k.yaml --datadir data/sample_data/run12 --prefix momentum --cpu
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.runs.entry import run_script
from puffin.settings.flags import Parser, parse
from puffin.settings.flags import make_parser as parser_of
from puffin.settings.jets import RegressorSettings as Settings


def make_parser() -> Parser:
    """Return the parser with all flags of this script."""
    return parser_of(Settings, __doc__.splitlines()[0])


def main(argv=None, report=None) -> list[dict]:
    """Parse the flags and run; return one row of numbers per epoch. report(all rows so far) is called after each."""
    flags = parse(Settings, __doc__.splitlines()[0], argv)
    from puffin.runs.jets import run_regressor  # imports PyTorch, which --help does not need

    return run_regressor(flags, report)


if __name__ == "__main__":
    run_script(main)
