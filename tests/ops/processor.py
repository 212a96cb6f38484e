"""The same computation on several threads, and with the instructions of other processors."""

import os
import subprocess
import sys
from collections.abc import Callable

import torch

from tests.conftest import ROOT
from tests.patience import PATIENCE


def with_threads(counts: tuple[int, ...], function: Callable) -> list:
    """function() under each number of threads."""
    before = torch.get_num_threads()
    try:
        results = []
        for count in counts:
            torch.set_num_threads(count)
            results.append(function())
        return results
    finally:
        torch.set_num_threads(before)


def check_instruction_set(level: str, tests: list[str], selection: str) -> None:
    """Run tests (files or names, and pytest's -k) with PUFFIN_ISA=level; AssertionError with their output if any fails.

    level: baseline, avx2, avx512 or avx512bf16; a machine runs the best of these that it has, up to the level."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *tests, "-k", selection],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PUFFIN_ISA": level},
    )
    assert done.returncode == 0, done.stdout + done.stderr
