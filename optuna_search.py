#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Search for good flags of a training script, on one machine or on many.

Example (ten short trainings on real simulated jets, two at a time; a few minutes on a laptop):
  python3 optuna_search.py --task classifier --study-name tops --num-trials 10 -j 2 --nobj 20 --num-epoch 4 --cpu
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a clone, installed or not

from puffin.runs.entry import run_script
from puffin.settings.flags import Parser
from puffin.settings.sweep import sweep_parser


def make_parser() -> Parser:
    """Return the parser of the search's own flags; those of the training script can be given too."""
    return sweep_parser(__doc__.splitlines()[0])


def main(argv=None) -> None:
    """Parse the flags and run."""
    parser = make_parser()
    parser.complete()
    parser.parse_known_args(argv)  # --help and bad flags are answered without PyTorch
    from puffin.sweeps.command import run_sweep

    run_sweep(__file__, __doc__.splitlines()[0], argv)


if __name__ == "__main__":
    run_script(main)
