#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
r"""Convert JetClass (arXiv:2202.03772, Zenodo 6619768) to Puffin's jet files; needs uproot.

    pip install --no-build-isolation -e '.[convert]'
    python data/convert_jetclass.py JetClass/val_5M/*.root --out data/jetclass/valid.h5

Input: ROOT files whose `tree` has, for each jet, lists of the features of its particles (part_px, ..., by descending
pT; GeV, mm) and flags label_*, one of which is 1. Each published file has jets of one class; several input files are
merged into one.
Output: Nobj, Pmu; signal_type (N, 10) uint8, one-hot in the order of LABELS, and jet_tag (N,) int32, the number of the
class; features of the particles, (N, M) float32: charge, isChargedHadron, isElectron, isMuon, isNeutralHadron,
isPhoton, and d0val, d0err, dzval, dzerr in mm.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np

from puffin.data.commands import check_outputs, converter_parser, progress, run_converter
from puffin.data.jet_writer import BLOCK, jet_file, jet_rows, one_hot_numbers, report
from puffin.errors import InputError, first_line

TREE = "tree"
NOBJ = 128
CLASSES = "QCD Hbb Hcc Hgg H4q Hqql Zqq Wqq Tbqq Tbl".split()
LABELS = tuple(f"label_{name}" for name in CLASSES)
MOMENTUM = ("part_energy", "part_px", "part_py", "part_pz")
FEATURES = "charge isChargedHadron isElectron isMuon isNeutralHadron isPhoton d0val d0err dzval dzerr".split()
BRANCHES = (*MOMENTUM, *(f"part_{name}" for name in FEATURES), *LABELS)


def import_reader():
    """Import the modules (uproot, awkward); InputError that says how to install them if they are missing."""
    try:
        import awkward
        import uproot
    except ImportError as error:
        command = "pip install --no-build-isolation -e '.[convert]'"
        raise InputError(f"reading ROOT files needs uproot and awkward ({error}). Install them: {command}") from error
    return uproot, awkward


def open_tree(path: Path):
    """Open the tree of a file; InputError if there is no tree or if a branch is missing."""
    uproot, _ = import_reader()
    try:
        file = uproot.open(path)
        keys = file.keys(cycle=False)
        tree = file[TREE] if TREE in keys else None
        branches = [] if tree is None else tree.keys()
    except Exception as error:  # uproot does not wrap errors: ValueError, OSError, struct.error, ...
        raise InputError(f"{path}: not a readable ROOT file ({first_line(error)})") from error
    if tree is None:
        raise InputError(f"{path}: '{TREE}' not found (has: {', '.join(keys) or 'nothing'})")
    missing = [name for name in BRANCHES if name not in branches]
    if missing:
        raise InputError(f"{path}: {TREE} has no branch {', '.join(missing)}")
    return tree


def blocks_of(tree, path: Path) -> Iterator:
    """Yield blocks of the tree; InputError if the file is damaged."""
    blocks, read = tree.iterate(BRANCHES, step_size=BLOCK, library="ak"), 0
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:  # zlib.error, ValueError, DeserializationError, ... of uproot and its codecs
            raise InputError(
                f"{path}: cannot read jets from {read} ({type(error).__name__}: {first_line(error)}). The file is "
                f"damaged or incomplete: download it again."
            ) from error
        if block is None:
            return
        read += len(block)
        yield block


def padded(lists, width: int) -> np.ndarray:
    """Zero-pad n lists of at most `width` numbers to an array (n, width) float32."""
    _, awkward = import_reader()
    return awkward.to_numpy(awkward.fill_none(awkward.pad_none(lists, width, clip=True), 0)).astype(np.float32)


def tree_rows(block, nobj: int, source: str, first: int) -> dict[str, np.ndarray]:
    """Make the rows to write from a block of the tree; InputError if the lists of a jet differ in length."""
    _, awkward = import_reader()
    lengths = awkward.to_numpy(awkward.num(block[MOMENTUM[0]]))
    for name in BRANCHES[: -len(LABELS)]:
        if not np.array_equal(awkward.to_numpy(awkward.num(block[name])), lengths):
            raise InputError(f"{source}: jets from {first}: {name} and {MOMENTUM[0]} have different lengths")
    width = max(1, int(lengths.max(initial=0)))
    momenta = np.stack([padded(block[name], width) for name in MOMENTUM], -1)
    features = {name: padded(block[f"part_{name}"], width) for name in FEATURES}
    flags = np.stack([awkward.to_numpy(block[name]) for name in LABELS], -1)
    tag = one_hot_numbers(flags, LABELS, source, first)
    return jet_rows(momenta, nobj, source, first, **features) | {"signal_type": flags.astype(np.uint8), "jet_tag": tag}


def main(argv=None) -> None:
    """Parse the flags and convert the input files."""
    parser = converter_parser(__doc__, "ROOT files; several files are merged", str(NOBJ))
    args = parser.parse_args(argv)
    check_outputs(args, [args.out])
    import_reader()
    total = 0
    for path in args.inputs:
        with open_tree(path) as tree:
            total += tree.num_entries
    attributes = {
        "source": "JetClass, Zenodo 6619768, arXiv:2202.03772",
        "classes": CLASSES,
        "units": "GeV, mm; four-momenta are (E, px, py, pz)",
    }
    with progress(total, args.out.name) as bar, jet_file(args.out, attributes) as file:
        for path in args.inputs:
            with open_tree(path) as tree:
                first = 0
                for block in blocks_of(tree, path):
                    file.append(tree_rows(block, args.nobj or NOBJ, str(path), first))
                    first += len(block)
                    bar.update(len(block))
    report(args.out, file)


if __name__ == "__main__":
    run_converter(main)
