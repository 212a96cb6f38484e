#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
r"""Convert EnergyFlow's quark and gluon jets (arXiv:1810.05165, Zenodo 3164691) to Puffin's jet files.

    python data/convert_energyflow_qg.py QG_jets*.npz --out data/qg/qg.h5 --split 0.8 0.1 0.1    # qg_train.h5, ...

Input (.npz): X (n, M, 4): pT [GeV], rapidity, azimuth and PDG code of each particle, padding has pT = 0; y (n,): 1 for
quark jets, 0 for gluon jets.
Output: Nobj, Pmu, pdgid (N, M) int32 (padding is 0), is_signal (N,) int8 (1 for quark jets). The four-momenta have the
masses of the particles, or no mass with --massless. Several input files are merged into one data set. With --split each
jet goes to train, valid or test at random, by the seed; a fraction of 0 writes no file.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np

from puffin.data.commands import check_outputs, converter_parser, progress, run_converter, split_path
from puffin.data.jet_writer import BLOCK, JetWriter, check_filled, jet_file, jet_rows, report
from puffin.data.npz import NpzArray
from puffin.errors import InputError
from puffin.settings.types import integer, number

SPLITS = ("train", "valid", "test")
# GeV; Particle Data Group, Phys. Rev. D 110 (2024) 030001. The K0L (130) has the mass of the K0.
MASSES = {
    22: 0.0,
    11: 0.00051099895,
    13: 0.1056583755,
    211: 0.13957039,
    321: 0.493677,
    130: 0.497611,
    2112: 0.93956542,
    2212: 0.93827209,
}
WITH_ANTIPARTICLE = (11, 13, 211, 321, 2112, 2212)
CODES = np.array(sorted([*MASSES, *(-code for code in WITH_ANTIPARTICLE)]))
MASS_OF_CODE = np.array([MASSES[abs(code)] for code in CODES])


def fourmomenta(particles: np.ndarray, massless: bool, source: str, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute four-momenta (n, M, 4) float64 and PDG codes (n, M) int32 from pT, y, phi and code (n, M, 4).

    Entries with pT = 0 become 0. InputError for a negative pT or an unknown code; it names the file `source` and the
    jet, counted from `first`."""
    pt, rapidity, phi, code = np.moveaxis(particles.astype(np.float64), -1, 0)
    if (pt < 0).any():
        jet = first + int((pt < 0).any(1).argmax())
        raise InputError(f"{source}: jet {jet}: expected pT >= 0, got {pt[pt < 0][0]:g}. Correct or remove the jet.")
    real = pt != 0
    position = np.searchsorted(CODES, code).clip(0, len(CODES) - 1)
    unknown = real & (CODES[position] != code)
    if unknown.any():
        jet = first + int(unknown.any(1).argmax())
        raise InputError(f"{source}: jet {jet}: PDG code {code[unknown][0]:g} is none of {CODES.tolist()}")
    mass = 0.0 if massless else MASS_OF_CODE[position]
    transverse = np.hypot(pt, mass)
    energy, pz = transverse * np.cosh(rapidity), transverse * np.sinh(rapidity)
    momenta = np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pz], -1)
    return np.where(real[..., None], momenta, 0), np.where(real, code, 0).astype(np.int32)


def assign(num_jets: int, fractions: list[float], seed: int) -> np.ndarray:
    """Assign each jet to a split, (num_jets,) int8: exact fractions, up to rounding, shuffled by the seed."""
    ends = np.round(np.cumsum([0, *fractions]) * num_jets).astype(int)
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(fractions), dtype=np.int8), np.diff(ends)))


def convert(paths: list[Path], outputs: dict[int, Path], split: np.ndarray, width: int, massless: bool) -> None:
    """Write jet i of all inputs to outputs[split[i]]; if an output would have no jets, nothing is written."""
    attributes = {
        "source": "EnergyFlow quark and gluon jets, Zenodo 3164691, arXiv:1810.05165",
        "units": "GeV; four-momenta are (E, px, py, pz)",
        "massless": massless,
    }
    jets_read = 0
    with ExitStack() as stack:
        bar = stack.enter_context(progress(len(split), next(iter(outputs.values())).name))
        files = {k: stack.enter_context(jet_file(path, attributes)) for k, path in outputs.items()}
        for path in paths:
            with NpzArray(path, "X") as particles, NpzArray(path, "y") as labels:
                for first in range(0, particles.shape[0], BLOCK):
                    size = min(BLOCK, particles.shape[0] - first)
                    rows = block_rows(particles.read(size), labels.read(size), width, massless, str(path), first)
                    append_by_split(files, rows, split[jets_read : jets_read + size])
                    jets_read += size
                    bar.update(size)
        for k, file in files.items():  # before the first file is complete
            check_filled(outputs[k], file)
    for k, file in files.items():
        report(outputs[k], file)


def block_rows(
    particles: np.ndarray, quark: np.ndarray, width: int, massless: bool, source: str, first: int
) -> dict[str, np.ndarray]:
    """Make the rows to write from particles (n, M, 4) and labels (n,); InputError for bad labels or particles."""
    if not np.isin(quark, (0, 1)).all():
        raise InputError(f"{source}: jets from {first}: expected y of 0 and 1, got {np.unique(quark)}")
    momenta, pdgid = fourmomenta(particles, massless, source, first)
    return jet_rows(momenta, width, source, first, pdgid=pdgid) | {"is_signal": quark.astype(np.int8)}


def append_by_split(files: dict[int, JetWriter], rows: dict[str, np.ndarray], split: np.ndarray) -> None:
    """Append row i to files[split[i]]."""
    for k, file in files.items():
        file.append({key: values[split == k] for key, values in rows.items()})


def main(argv=None) -> None:
    """Parse the flags, check the input files, and convert them."""
    inputs = "QG_jets*.npz; several files are merged"
    parser = converter_parser(__doc__, inputs, "all, the largest number in the input files")
    parser.add_argument("--massless", action="store_true", help="set E = |p| instead of using the particles' masses")
    parser.add_argument(
        "--split",
        nargs=3,
        type=number(minimum=0, maximum=1),
        metavar=("TRAIN", "VALID", "TEST"),
        help="write OUT_train.h5, OUT_valid.h5 and OUT_test.h5 with these fractions of the jets, which add up to 1",
    )
    parser.add_argument("--seed", type=integer(0), default=0, help="random seed of --split")
    args = parser.parse_args(argv)
    if args.split and abs(sum(args.split) - 1) >= 1e-6:
        raise InputError(f"--split: expected three fractions with sum 1, got {args.split}")
    fractions = args.split or [1.0]
    paths = [split_path(args.out, split) for split in SPLITS] if args.split else [args.out]
    check_outputs(args, paths)
    num_jets, width = 0, 0
    for path in args.inputs:
        with NpzArray(path, "X") as particles, NpzArray(path, "y") as labels:
            if len(particles.shape) != 3 or particles.shape[2] != 4 or labels.shape != particles.shape[:1]:
                raise InputError(f"{path}: expected X (n, M, 4) and y (n,), got {particles.shape} and {labels.shape}")
            num_jets, width = num_jets + particles.shape[0], max(width, particles.shape[1])
    outputs = {k: path for k, path in enumerate(paths) if fractions[k] > 0}
    convert(args.inputs, outputs, assign(num_jets, fractions, args.seed), args.nobj or width, args.massless)


if __name__ == "__main__":
    run_converter(main)
