#!/usr/bin/env python3
r"""Convert JetClass (arXiv:2202.03772, Zenodo 6619768) to Puffin's jet files; needs uproot.

    pip install --no-build-isolation -e '.[convert]'
    python data/convert_jetclass.py JetClass/val_5M/*.root --out data/jetclass/valid.h5

Source: ROOT files whose `tree` has, for each jet, lists of its particles (part_px, ..., by falling pT; GeV, mm) and
flags label_*, of which one is 1. Several inputs, of one class each as published, become one file.
Written: Nobj, Pmu; signal_type (N, 10) uint8, one-hot in the order of LABELS, and jet_tag (N,) int32, its number; and
for the particles, (N, M) float32: charge, isChargedHadron, isElectron, isMuon, isNeutralHadron, isPhoton, and d0val,
d0err, dzval, dzerr in mm.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.data.jet_writer import (
    BLOCK,
    check_outputs,
    converter_parser,
    jet_file,
    jet_rows,
    one_hot_numbers,
    progress,
    report,
    run_converter,
)
from puffin.errors import InputError, first_line

TREE = "tree"
NOBJ = 128
LABELS = (
    "label_QCD",
    "label_Hbb",
    "label_Hcc",
    "label_Hgg",
    "label_H4q",
    "label_Hqql",
    "label_Zqq",
    "label_Wqq",
    "label_Tbqq",
    "label_Tbl",
)
MOMENTUM = ("part_energy", "part_px", "part_py", "part_pz")
FEATURES = (
    "charge",
    "isChargedHadron",
    "isElectron",
    "isMuon",
    "isNeutralHadron",
    "isPhoton",
    "d0val",
    "d0err",
    "dzval",
    "dzerr",
)
BRANCHES = (*MOMENTUM, *(f"part_{name}" for name in FEATURES), *LABELS)


def import_reader():
    """The modules (uproot, awkward); InputError with the remedy where they are not installed."""
    try:
        import awkward
        import uproot
    except ImportError as error:
        remedy = "pip install --no-build-isolation -e '.[convert]'"
        raise InputError(f"ROOT files are read with uproot and awkward ({error}): {remedy}") from error
    return uproot, awkward


def open_tree(path: Path):
    """The tree of a file; InputError if it is not there or lacks a branch."""
    uproot, _ = import_reader()
    try:
        file = uproot.open(path)
    except Exception as error:  # uproot raises what it meets: ValueError, OSError, struct.error, ...
        raise InputError(f"{path}: not a readable ROOT file ({first_line(error)})") from error
    if TREE not in file:
        raise InputError(f"{path}: '{TREE}' not found (has: {', '.join(file.keys()) or 'nothing'})")
    missing = [name for name in BRANCHES if name not in file[TREE].keys()]
    if missing:
        raise InputError(f"{path}: {TREE} has no branch {', '.join(missing)}")
    return file[TREE]


def padded(lists, width: int) -> np.ndarray:
    """(n, width) array of the n lists, zero-padded; no list is longer than width."""
    _, awkward = import_reader()
    return awkward.to_numpy(awkward.fill_none(awkward.pad_none(lists, width, clip=True), 0)).astype(np.float32)


def tree_rows(block, nobj: int, source: str, first: int) -> dict[str, np.ndarray]:
    """Rows to write from a block of the tree; InputError if lists of a jet differ in length."""
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
    parser = converter_parser(__doc__, "ROOT files; all become one", str(NOBJ))
    args = parser.parse_args(argv)
    check_outputs(args, [args.out])
    import_reader()
    total = 0
    for path in args.inputs:
        with open_tree(path) as tree:
            total += tree.num_entries
    attributes = {
        "source": "JetClass, Zenodo 6619768, arXiv:2202.03772",
        "classes": [name.removeprefix("label_") for name in LABELS],
        "units": "GeV, mm; four-momenta are (E, px, py, pz)",
    }
    with progress(total, args.out.name) as bar, jet_file(args.out, attributes) as file:
        for path in args.inputs:
            with open_tree(path) as tree:
                first = 0
                for block in tree.iterate(BRANCHES, step_size=BLOCK, library="ak"):
                    file.append(tree_rows(block, args.nobj or NOBJ, str(path), first))
                    first += len(block)
                    bar.update(len(block))
    report(args.out, file)


if __name__ == "__main__":
    run_converter(main)
