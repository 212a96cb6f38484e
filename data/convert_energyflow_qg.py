#!/usr/bin/env python3
r"""Convert EnergyFlow's quark and gluon jets (arXiv:1810.05165, Zenodo 3164691) to Puffin's jet files.

    python data/convert_energyflow_qg.py QG_jets*.npz --out data/qg/qg.h5 --split 0.8 0.1 0.1    # qg_train.h5, ...

Source, .npz: X (n, M, 4): pT [GeV], rapidity, azimuth, PDG code of each particle, pT = 0 padding; y (n,): 1 quark,
0 gluon. Written: Nobj, Pmu, pdgid (N, M) int32 (0 = padding), is_signal (N,) int8: 1 quark, 0 gluon. The four-momenta
have the particles' masses, or none with --massless. With --split every jet goes to train, valid or test by the seed;
a share of 0 makes no file.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.data.jet_writer import (
    BLOCK,
    check_filled,
    check_outputs,
    converter_parser,
    jet_file,
    jet_rows,
    progress,
    report,
    run_converter,
    split_path,
)
from puffin.data.npz import NpzArray
from puffin.errors import InputError

SPLITS = ("train", "valid", "test")
# GeV; Particle Data Group, Phys. Rev. D 110 (2024) 030001. 130, a K0L, has the mass of the K0.
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
    """(n, M, 4) float64 E, px, py, pz and (n, M) int32 PDG codes, of (n, M, 4) pT, y, phi, code; 0 where pT is 0."""
    pt, rapidity, phi, code = np.moveaxis(particles.astype(np.float64), -1, 0)
    if (pt < 0).any():
        jet = first + int((pt < 0).any(1).argmax())
        raise InputError(f"{source}: jet {jet}: expected pT >= 0, got {pt[pt < 0][0]:g}; mend or remove the jet")
    real = pt != 0
    place = np.searchsorted(CODES, code).clip(0, len(CODES) - 1)
    unknown = real & (CODES[place] != code)
    if unknown.any():
        jet = first + int(unknown.any(1).argmax())
        raise InputError(f"{source}: jet {jet}: PDG code {code[unknown][0]:g} is none of {CODES.tolist()}")
    mass = 0.0 if massless else MASS_OF_CODE[place]
    transverse = np.hypot(pt, mass)
    energy, pz = transverse * np.cosh(rapidity), transverse * np.sinh(rapidity)
    momenta = np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pz], -1)
    return np.where(real[..., None], momenta, 0), np.where(real, code, 0).astype(np.int32)


def assign(number: int, fractions: list[float], seed: int) -> np.ndarray:
    """Place in SPLITS of each of `number` jets, (number,) int8: exact shares, up to rounding, shuffled by the seed."""
    ends = np.round(np.cumsum([0, *fractions]) * number).astype(int)
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(fractions), dtype=np.int8), np.diff(ends)))


def convert(paths: list[Path], outputs: dict[int, Path], split: np.ndarray, width: int, massless: bool) -> None:
    """Write jet i of all inputs to outputs[split[i]]; all outputs, or none if one of them gets no jet."""
    attributes = {
        "source": "EnergyFlow quark and gluon jets, Zenodo 3164691, arXiv:1810.05165",
        "units": "GeV; four-momenta are (E, px, py, pz)",
        "massless": massless,
    }
    done = 0
    with ExitStack() as stack:
        bar = stack.enter_context(progress(len(split), next(iter(outputs.values())).name))
        files = {k: stack.enter_context(jet_file(path, attributes)) for k, path in outputs.items()}
        for path in paths:
            with NpzArray(path, "X") as particles, NpzArray(path, "y") as labels:
                for first in range(0, particles.shape[0], BLOCK):
                    number = min(BLOCK, particles.shape[0] - first)
                    momenta, pdgid = fourmomenta(particles.read(number), massless, str(path), first)
                    quark = labels.read(number)
                    if not np.isin(quark, (0, 1)).all():
                        raise InputError(f"{path}: jets from {first}: expected y of 0 and 1, got {np.unique(quark)}")
                    rows = jet_rows(momenta, width, str(path), first, pdgid=pdgid)
                    rows["is_signal"] = quark.astype(np.int8)
                    mine = split[done : done + number]
                    for k, file in files.items():
                        file.append({key: values[mine == k] for key, values in rows.items()})
                    done += number
                    bar.update(number)
        for k, file in files.items():  # before the first of them appears
            check_filled(outputs[k], file)
    for k, file in files.items():
        report(outputs[k], file)


def main(argv=None) -> None:
    parser = converter_parser(__doc__, "QG_jets*.npz; all become one data set", "all, as wide as the widest input")
    parser.add_argument("--massless", action="store_true", help="E = |p| instead of the masses of the PDG codes")
    parser.add_argument(
        "--split",
        nargs=3,
        type=float,
        metavar=("TRAIN", "VALID", "TEST"),
        help="write OUT_train.h5, OUT_valid.h5, OUT_test.h5 with these shares of the jets",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --split (default: 0)")
    args = parser.parse_args(argv)
    if args.split and not (min(args.split) >= 0 and abs(sum(args.split) - 1) < 1e-6):
        raise InputError(f"--split: expected three shares with sum 1, got {args.split}")
    if args.seed < 0:
        raise InputError(f"--seed: expected at least 0, got {args.seed}")
    shares = args.split or [1.0]
    paths = [split_path(args.out, split) for split in SPLITS] if args.split else [args.out]
    check_outputs(args, paths)
    number, width = 0, 0
    for path in args.inputs:
        with NpzArray(path, "X") as particles, NpzArray(path, "y") as labels:
            if len(particles.shape) != 3 or particles.shape[2] != 4 or labels.shape != particles.shape[:1]:
                raise InputError(f"{path}: expected X (n, M, 4) and y (n,), got {particles.shape} and {labels.shape}")
            number, width = number + particles.shape[0], max(width, particles.shape[1])
    outputs = {k: path for k, path in enumerate(paths) if shares[k] > 0}
    convert(args.inputs, outputs, assign(number, shares, args.seed), args.nobj or width, args.massless)


if __name__ == "__main__":
    run_converter(main)
