#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Measure how the rejection of a trained jet tagger changes if its test jets are perturbed.

    python3 tools/stress.py model/top_best.pt --testfile data/sample_data/run12/test.h5 --png stress.png

The perturbations are shifts of the energy scale, smearing of energies and of directions, loss of soft particles,
collinear splitting and added soft particles, each with several strengths. The table has accuracy, AUC and background
rejections, and their ratios to those of the same jets without perturbation, with intervals from a paired bootstrap.
docs/stress_a_tagger.md explains the numbers.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import InputError, explain_missing_packages
from puffin.settings.names import PERTURBATIONS as NAMES
from puffin.settings.parser import OneLineParser
from puffin.settings.types import count_or_all, integer


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint of a classifier with two classes")
    add("--testfile", default="", metavar="FILE", help="test jets (default: those of the training)")
    add("--num-test", type=count_or_all, default=-1, metavar="N", help="number of test jets (default: -1, all)")
    add("--only", nargs="+", choices=NAMES, default=tuple(NAMES), help="perturbations to try (default: all)")
    add("--resamples", type=integer(2), default=500, metavar="R", help="bootstrap samples (default: %(default)s)")
    add("--seed", type=integer(0), default=0, metavar="N", help="seed of perturbations and bootstrap (default: 0)")
    add("--csv", type=Path, metavar="OUT", help="also write the numbers to a CSV file")
    add("--png", type=Path, metavar="OUT", help="also draw the ratios of the rejections (to a .png, .pdf or .svg)")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # --help and bad flags are answered before the imports that take seconds
    explain_missing_packages()
    parse_arguments()

import numpy as np
import torch
from tqdm import tqdm

import puffin
from puffin.data.jet_observables import observables
from puffin.data.jets import JetDataset, JetSelection, open_splits
from puffin.data.packing import JetBatch
from puffin.data.perturb import PERTURBATIONS, hardest
from puffin.data.targets import ClassLabels
from puffin.files import whole_file
from puffin.metrics.bootstrap import RankedScores, Result, results_of_methods
from puffin.metrics.classification import signal_scores
from puffin.metrics.missing import missing_of_classes, not_finite
from puffin.plots.stress import draw_stress
from puffin.predictors import JetClassifier
from puffin.report.results import shown
from puffin.runs.entry import run_script
from tools.results import write_csv

METRICS = ("AUC", "BgRejectionAt0.3", "BgRejectionAt0.5")
UNPERTURBED = "none"
_BATCH = 256


def open_jets(tagger: JetClassifier, args: argparse.Namespace) -> JetDataset:
    """Open the test jets with all their particles, unscaled; InputError if they cannot be used."""
    data = tagger.settings.data
    selection = JetSelection.of(data, ClassLabels(data.target), nobj=-1, scale=1.0, observables=False)
    found = open_splits(data.datadir, selection, {"test": args.num_test}, args.seed, args.testfile or data.testfile)
    if "test" not in found or not len(found["test"]):
        raise InputError(f"{data.datadir}: no test jets; choose a file with --testfile")
    reasons = missing_of_classes(found["test"].labels().numpy(), None, 2)
    if reasons:
        raise InputError(f"no AUC and no rejection: {reasons['AUC']} among the test jets; choose others")
    return found["test"]


def prepared(batch: JetBatch, tagger: JetClassifier) -> JetBatch:
    """Prepare perturbed jets like those of a file: the hardest particles, with the scale of the training, and
    observables of all particles if the tagger takes them."""
    data = tagger.settings.data
    observed = None
    if tagger.network.config.num_observables:
        observed = torch.from_numpy(observables(batch.fourmomenta.numpy(), batch.lengths.numpy()))
    batch = hardest(batch, data.nobj)
    return replace(batch, fourmomenta=batch.fourmomenta * data.scale, observables=observed)


def scores_of(tagger: JetClassifier, jets: JetDataset, name: str, strength: float, seed: int) -> np.ndarray:
    """Return the scores (N,) of all jets after a perturbation, "none" for no perturbation."""
    generator, scores = torch.Generator().manual_seed(seed), []
    with torch.inference_mode():
        for first in range(0, len(jets), _BATCH):
            batch = jets.__getitems__(list(range(first, min(first + _BATCH, len(jets)))))
            if name != UNPERTURBED:
                batch = PERTURBATIONS[name].apply(batch, strength, generator)
            logits = tagger.network(prepared(batch, tagger).to(tagger.device, tagger.dtype))
            scores.append(signal_scores(logits.double().numpy()))
    found = np.concatenate(scores)
    problem = not_finite(found[:, None], "scores")
    if problem:
        raise InputError(f"{name} {strength:g}: {problem}")
    return found


def measure(tagger: JetClassifier, jets: JetDataset, args: argparse.Namespace) -> dict[tuple[str, float], Result]:
    """Compute the results of every perturbation and strength, by these; the first has none."""
    cases = [(UNPERTURBED, 0.0)] + [(name, s) for name in args.only for s in PERTURBATIONS[name].strengths]
    is_signal = jets.labels().numpy() == 1
    ranked = {
        f"{name} {strength:g}": RankedScores(scores_of(tagger, jets, name, strength, args.seed), is_signal)
        for name, strength in tqdm(cases, unit="case", disable=None, leave=False)
    }
    statistics = {case: lambda times, scores=scores: scores(times)[None] for case, scores in ranked.items()}
    reference = next(iter(statistics))
    results = results_of_methods(statistics, METRICS, is_signal, reference, resamples=args.resamples, seed=args.seed)
    return dict(zip(cases, results, strict=True))


def markdown(results: dict[tuple[str, float], Result]) -> str:
    """Make the table: the numbers, and the ratios of the rejections."""
    rejections = METRICS[1:]
    lines = [["perturbation", "strength", *METRICS, *(f"ratio of {name}" for name in rejections)]]
    lines.append(["---"] * len(lines[0]))
    for (name, strength), result in results.items():
        ratios = [shown(result.ratios[m]) if result.ratios else "1" for m in rejections]
        lines.append([NAMES.get(name, name), f"{strength:g}", *(shown(result.numbers[m]) for m in METRICS), *ratios])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(path: Path, results: dict[tuple[str, float], Result], names: Sequence[str], title: str) -> None:
    """Draw the ratios of the rejections."""
    curves = {}
    for name in names:
        strengths = PERTURBATIONS[name].strengths
        curves[NAMES[name]] = {
            f"1 / background efficiency\nat signal efficiency {metric.removeprefix('BgRejectionAt')}": [
                (strength, results[name, strength].ratios[metric]) for strength in strengths
            ]
            for metric in METRICS[1:]
        }
    with whole_file(path) as temporary:
        draw_stress(temporary, curves, title)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write the files."""
    args = parse_arguments(arguments)
    tagger = puffin.load(args.checkpoint)
    if not isinstance(tagger, JetClassifier) or tagger.network.config.num_classes != 2:
        raise InputError(f"{args.checkpoint}: expected a jet classifier with two classes, found {tagger}")
    jets = open_jets(tagger, args)
    results = measure(tagger, jets, args)
    signal = int((jets.labels() == 1).sum())
    print(f"{len(jets)} jets, {signal} of them signal. In brackets: 95% intervals; those of ratios are paired.\n")
    print(markdown(results))
    if args.csv:
        write_csv(args.csv, list(results.values()))
    if args.png:
        draw(args.png, results, args.only, f"{args.checkpoint.name}, {len(jets)} jets")


if __name__ == "__main__":
    run_script(main, sys.argv[1:], hint="")
