#!/usr/bin/env python3
"""Compare a trained regressor with estimates that need no training, on the same jets.

  python3 bench/regression.py --testfile data/sample_data/run12/test.h5 --target truth_Pmu_W \\
      --predictions predict/w.best.test.pt

"sum of constituents" estimates the four-momentum of the particle that initiated the jet. "best pair of subjets"
estimates that of a W inside a top jet: the jet is clustered into three subjets with the kT distance (hep-ph/9305266),
and the pair whose mass is nearest to the W mass is chosen.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np
import torch

from puffin.checkpoints.reading import read_checkpoint
from puffin.data.hdf5 import open_hdf5
from puffin.errors import InputError
from puffin.metrics.regression import RESOLUTIONS, RESPONSES, regression_metrics
from puffin.runs.entry import run_script
from puffin.settings.parser import OneLineParser
from puffin.settings.types import integer

W_MASS = 80.4  # GeV
SUBJETS = 3


def kt_subjets(p: np.ndarray, number: int) -> np.ndarray:
    """Merge particles (n, 4) pairwise, nearest in kT first, until `number` momenta are left: (<= number, 4)."""
    p = p.astype(np.float64)
    while len(p) > number:
        pt, phi = np.hypot(p[:, 1], p[:, 2]), np.arctan2(p[:, 2], p[:, 1])
        eta = np.arcsinh(p[:, 3] / np.maximum(pt, 1e-9))
        delta_eta, delta_phi = eta[:, None] - eta, np.abs(phi[:, None] - phi)
        angle = delta_eta**2 + np.minimum(delta_phi, 2 * np.pi - delta_phi) ** 2
        distance = np.minimum(pt[:, None], pt) ** 2 * angle
        np.fill_diagonal(distance, np.inf)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        p[i] += p[j]
        p = np.delete(p, j, 0)
    return p


def best_pair(p: np.ndarray) -> np.ndarray:
    """Return the sum (4,) of the two kT subjets whose mass is nearest to the W mass, or the only particle of a jet."""
    subjets = kt_subjets(p, SUBJETS)
    if len(subjets) == 1:
        return subjets[0]
    pairs = np.array([subjets[i] + subjets[j] for i in range(len(subjets)) for j in range(i)])
    masses = np.sqrt(np.maximum(pairs[:, 0] ** 2 - (pairs[:, 1:] ** 2).sum(1), 0))
    return pairs[np.abs(masses - W_MASS).argmin()]


def read_predictions(path: Path, true: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the rows (n,) of the test file that a network has predicted, and its momenta (n, 4).

    With --num-test these are a part of the jets. true (N, 4): the true momenta of all jets of the file, which `source`
    names. InputError for predictions of another file."""
    saved = read_checkpoint(path)
    if not {"targets", "predict"} <= saved.keys():
        raise InputError(f"{path}: expected targets and predict, as train_pelican_cov.py writes them")
    rows = saved["row"].numpy() if "row" in saved else np.flatnonzero(true.any(1))  # older files have no rows
    fits = len(rows) == len(saved["targets"]) and rows.max(initial=0) < len(true)
    if not fits or not np.allclose(saved["targets"][:, 0].numpy(), true[rows], rtol=1e-5):
        raise InputError(f"{path}: its targets differ from {source}. Choose the matching --testfile.")
    return rows, saved["predict"][:, 0].numpy()


def main(argv: list[str] | None = None) -> None:
    """Print the resolutions of each estimate."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--testfile", required=True, metavar="FILE", help="HDF5 file of jets")
    add("--target", default="truth_Pmu", metavar="KEY", help="data set of the true four-momenta (default: %(default)s)")
    add(
        "--nobj",
        type=integer(1),
        default=200,
        metavar="N",
        help="maximum number of constituents per jet, in the order of the file (default: %(default)s)",
    )
    add(
        "--predictions",
        metavar="FILE",
        help="predict/*.pt that train_pelican_cov.py wrote for the same file (default: only the simple estimates)",
    )
    args = parser.parse_args(argv)
    with open_hdf5(Path(args.testfile)) as file:
        missing = [key for key in (args.target, "Pmu") if key not in file]
        if missing:
            raise InputError(f"{args.testfile}: no data set '{missing[0]}' (found: {', '.join(file)})")
        true = file[args.target][()]
        rows, network = np.flatnonzero(true.any(1)), None
        if args.predictions:
            rows, network = read_predictions(Path(args.predictions), true, f"{args.testfile}, data set {args.target}")
        true, jets = true[rows], file["Pmu"][()][rows, : args.nobj]
    jets = [jet[jet[:, 0] != 0] for jet in jets]
    estimates = {"sum of constituents": np.stack([jet.sum(0, dtype=np.float64) for jet in jets])}
    estimates["best pair of subjets"] = np.stack([best_pair(jet) for jet in jets])
    if args.predictions:
        estimates["network"] = network
    columns = (*RESOLUTIONS, *RESPONSES, "loss_m", "loss_3d")  # a resolution alone hides a bias
    print(f"{len(true)} jets of {args.testfile}, {args.target}")
    print(f"{'':22s}" + "".join(f"{c:>15s}" for c in columns))
    for name, estimate in estimates.items():
        metrics = regression_metrics(torch.from_numpy(estimate)[:, None], torch.from_numpy(true)[:, None], 0.0)
        print(f"{name:22s}" + "".join(f"{metrics[c]:15.4g}" for c in columns))


if __name__ == "__main__":
    run_script(main, hint="")
