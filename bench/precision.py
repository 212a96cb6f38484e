#!/usr/bin/env python3
"""Compare the scores of a classifier of jets in several precisions, on the same jets.

  python3 bench/precision.py --testfile jets/test.h5 model/quickstart_best.pt tests/golden/pelican_run/ref_best.pt

The precisions are float32, bfloat16 (`--amp bf16`: tables of pairs in bfloat16, all else in float32) and int8: each
weight matrix is rounded to 8 bits, with one scale for each of its rows, and used in float32. The largest and the mean
difference are of the probability of class 1, from that in float32. 1/eB is the background rejection
at a signal efficiency.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np
import torch
from torch import nn

from bench.timing import publish
from puffin import load
from puffin.data.hdf5 import open_hdf5
from puffin.errors import InputError
from puffin.metrics.classification import classification_metrics
from puffin.predictors import JetClassifier
from puffin.runs.entry import run_script
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer
from puffin.training.memory import keep_freed_memory
from puffin.training.update import autocast

SHOWN = {"AUC": "AUC", "BgRejectionAt0.3": "1/eB at 0.3", "BgRejectionAt0.5": "1/eB at 0.5"}


@torch.no_grad()
def round_weights_(network: nn.Module, bits: int = 8) -> nn.Module:
    """Round each matrix of weights to integers of `bits` bits times a scale for each row, in place."""
    most = 2 ** (bits - 1) - 1
    for weight in network.parameters():
        if weight.dim() > 1:
            scale = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True).clamp_min(1e-30) / most
            weight.copy_((weight / scale).round() * scale)
    return network


def scores_of(classifier: JetClassifier, path: Path, amp: str) -> np.ndarray:
    """Return the scores (N, 2) before the softmax."""
    with autocast(classifier.device, amp):
        return classifier.predict(path)


def compare(checkpoint: Path, path: Path, labels: np.ndarray) -> list[str]:
    """Return the lines of the table of a checkpoint."""
    plain = load(checkpoint)
    if not isinstance(plain, JetClassifier) or plain.network.config.num_classes != 2:
        raise InputError(f"{checkpoint}: expected a classifier of jets with two classes")
    rounded = copy.copy(plain)
    rounded.network = round_weights_(copy.deepcopy(plain.network))
    reference, lines = None, [str(checkpoint)]
    for name, classifier, amp in (("float32", plain, ""), ("bfloat16", plain, "bf16"), ("int8", rounded, "")):
        clock = time.perf_counter()
        scores = scores_of(classifier, path, amp).astype(np.float64)
        rate = len(scores) / (time.perf_counter() - clock)
        metrics = classification_metrics(scores, labels, float("nan"), None)
        probability = 1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))
        reference = probability if reference is None else reference
        differences = np.abs(probability - reference)
        shown = "".join(f"{metrics[key]:13.5g}" for key in SHOWN)
        lines.append(f"  {name:9}{shown}{differences.max():14.2e}{differences.mean():12.2e}{rate:10.0f}")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Read the flags, and print the table."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoints of classifiers with two classes")
    parser.add_argument("--testfile", type=Path, required=True, help="jets, with the key is_signal")
    parser.add_argument("--threads", type=integer(1), default=2, metavar="N", help="number of CPU threads (default: 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report to this text file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    with open_hdf5(args.testfile) as file:
        if "is_signal" not in file:
            raise InputError(f"{args.testfile}: no data set 'is_signal' (found: {', '.join(file)})")
        labels = file["is_signal"][()].astype(np.int64)
    titles = "".join(f"{key:>13}" for key in SHOWN.values()) + f"{'largest diff':>14}{'mean diff':>12}{'jets/s':>10}"
    lines = [f"{len(labels)} jets of {args.testfile.name}", "", f"  {'':9}{titles}"]
    for checkpoint in args.checkpoints:
        lines += compare(checkpoint, args.testfile, labels)
    publish("\n".join(lines), args.out)


if __name__ == "__main__":
    run_script(main, hint="")
