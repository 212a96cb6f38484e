#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
r"""Convert the HLS4ML LHC jets of five classes (arXiv:1908.05318, Zenodo 3602260) to Puffin's jet files.

    python data/convert_hls4ml.py train/*.h5 --out data/hls4ml/train.h5

Input: jetConstituentList (n, P, features), whose columns particleFeatureNames lists; j1_e, j1_px, j1_py and j1_pz [GeV]
are used. jets (n, features), whose columns jetFeatureNames lists; the one-hot j_g, j_q, j_w, j_z and j_t are used.
Several input files are merged into one.
Output: Nobj, Pmu, signal_type (N, 5) uint8, one-hot in the order g, q, W, Z, top, and jet_tag (N,) int32, the number of
the class.
"""

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import h5py
import numpy as np

from puffin.data.commands import check_outputs, converter_parser, progress, run_converter
from puffin.data.hdf5 import keys_of, open_array, open_hdf5
from puffin.data.jet_writer import BLOCK, jet_file, jet_rows, one_hot_numbers, report
from puffin.errors import InputError, first_line

MOMENTUM = ("j1_e", "j1_px", "j1_py", "j1_pz")
CLASSES = ("j_g", "j_q", "j_w", "j_z", "j_t")


class Source(NamedTuple):
    """The two tables of a file, and the numbers of the columns that are used."""

    path: Path
    particles: h5py.Dataset
    momentum: list[int]
    jets: h5py.Dataset
    classes: list[int]


def columns(
    file: h5py.File, path: Path, table: str, names: str, wanted: tuple[str, ...]
) -> tuple[h5py.Dataset, list[int]]:
    """Return a table and the numbers of its wanted columns; InputError if the table or a column is missing."""
    array = open_array(file, path, table)
    if not isinstance(file.get(names), h5py.Dataset):
        raise InputError(f"{path}: key '{names}' not found or not an array (has: {keys_of(file)})")
    found = [name.decode() if isinstance(name, bytes) else str(name) for name in np.atleast_1d(file[names][()])]
    # the list of names may be longer than the table is wide
    missing = [name for name in wanted if name not in found[: array.shape[-1] if array.shape else 0]]
    if missing:
        raise InputError(f"{path}: {table} has no column {', '.join(missing)} ({names}: {', '.join(found)})")
    return array, [found.index(name) for name in wanted]


def open_source(path: Path) -> Source:
    """Open a file and find its columns; InputError if it does not have the layout above."""
    file = open_hdf5(path)
    particles, momentum = columns(file, path, "jetConstituentList", "particleFeatureNames", MOMENTUM)
    jets, classes = columns(file, path, "jets", "jetFeatureNames", CLASSES)
    if particles.ndim != 3 or jets.ndim != 2 or len(particles) != len(jets):
        shapes = f"{particles.shape} and {jets.shape}"
        raise InputError(f"{path}: expected jetConstituentList (n, P, features) and jets (n, features), got {shapes}")
    return Source(path, particles, momentum, jets, classes)


def source_rows(source: Source, first: int, nobj: int) -> dict[str, np.ndarray]:
    """Make the rows to write from the block of jets that begins at `first`."""
    try:
        momenta = source.particles[first : first + BLOCK][..., source.momentum]
        flags = source.jets[first : first + BLOCK][:, source.classes]
    except OSError as error:
        problem = f"{source.path}: cannot read jets from {first} ({first_line(error)})"
        raise InputError(f"{problem}. Download the file again.") from error
    tag = one_hot_numbers(flags, CLASSES, str(source.path), first)
    return jet_rows(momenta, nobj, str(source.path), first) | {"signal_type": flags.astype(np.uint8), "jet_tag": tag}


def main(argv=None) -> None:
    """Parse the flags and convert the input files."""
    inputs = "HDF5 files; several files are merged"
    parser = converter_parser(__doc__, inputs, "all, the largest number in the input files")
    args = parser.parse_args(argv)
    check_outputs(args, [args.out])
    sources = [open_source(path) for path in args.inputs]
    nobj = args.nobj or max(source.particles.shape[1] for source in sources)
    attributes = {
        "source": "HLS4ML LHC jets, Zenodo 3602260, arXiv:1908.05318",
        "classes": ["g", "q", "W", "Z", "top"],
        "units": "GeV; four-momenta are (E, px, py, pz)",
    }
    total = sum(len(source.jets) for source in sources)
    with progress(total, args.out.name) as bar, jet_file(args.out, attributes) as file:
        for source in sources:
            for first in range(0, len(source.jets), BLOCK):
                file.append(source_rows(source, first, nobj))
                bar.update(min(BLOCK, len(source.jets) - first))
    report(args.out, file)


if __name__ == "__main__":
    run_converter(main)
