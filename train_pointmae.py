#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Pretrain Point-MAE, PoLAr-MAE or a U-Net on LArTPC point clouds, or evaluate a pretrained network.

Example (sample events, a small network, minutes on a laptop):
  python3 train_pointmae.py --yaml config/pointmae_quick.yaml --datadir data/sample_data/lartpc --prefix cloud --cpu
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.runs.entry import run_script
from puffin.settings.clouds import PretrainingSettings as Settings
from puffin.settings.flags import Parser, parse
from puffin.settings.flags import make_parser as parser_of


def make_parser() -> Parser:
    """Return the parser with all flags of this script."""
    return parser_of(Settings, __doc__.splitlines()[0])


def main(argv=None, report=None) -> list[dict]:
    """Parse the flags and run; return one row of numbers per epoch. report(all rows so far) is called after each."""
    flags = parse(Settings, __doc__.splitlines()[0], argv)
    from puffin.runs.clouds import run_pretraining  # imports PyTorch, which --help does not need

    return run_pretraining(flags, report)


if __name__ == "__main__":
    run_script(main)
