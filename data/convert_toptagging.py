#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
r"""Convert the top tagging reference set (arXiv:1902.09914, Zenodo 2603256) to Puffin's jet files.

    python data/convert_toptagging.py train.h5 --out data/toptagging/train.h5
    python data/convert_toptagging.py toptagging_full.npz --out data/toptagging/top.h5    # top_train.h5, ...

There are two kinds of input:
- a pandas table /table/table: for each jet 804 floats (E, PX, PY, PZ of 200 particles, then of the true top; GeV), and
  the integers ttv and is_signal_new, or only the latter. The names of the columns are pickled, and pickled data are
  never loaded; the values of the columns are checked instead. Several tables are merged into one file.
- one .npz file: kinematics_{train, valid or val, test} (N, M, 4) and labels_*, (N,) or one-hot (N, 2). Each split
  becomes a file.

Output: Nobj, Pmu, is_signal (N,) int8; from tables also truth_Pmu (N, 4) float32 and ttv (N,) int8.
"""

import importlib
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import h5py
import numpy as np

from puffin.data.commands import check_outputs, converter_parser, progress, run_converter, split_path
from puffin.data.hdf5 import open_hdf5
from puffin.data.jet_writer import BLOCK, jet_file, jet_rows, report
from puffin.data.momenta import Source, find_particles
from puffin.data.npz import NpzArray, npz_keys
from puffin.errors import InputError, first_line

ATTRIBUTES = {
    "source": "top tagging reference set, Zenodo 2603256, arXiv:1902.09914",
    "units": "GeV; four-momenta are (E, px, py, pz)",
}
PARTICLES = 200
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}  # name in an .npz file: our name


def open_table(path: Path) -> h5py.Dataset:
    """Open the table of a file; InputError if it does not have the layout above."""
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")  # adds Blosc and other compression filters of pandas
    file = open_hdf5(path)
    table = file.get("table/table")
    check_pandas_format(file, path)
    fields = table.dtype.fields if isinstance(table, h5py.Dataset) else None
    shapes = {name: fields[name][0] for name in ("values_block_0", "values_block_1") if fields and name in fields}
    floats, integers = shapes.get("values_block_0"), shapes.get("values_block_1")
    if floats is None or integers is None:
        found = list(fields or file)
        raise InputError(f"{path}: expected the pandas table /table/table with values_block_0 and _1, got {found}")
    width = 4 * (PARTICLES + 1)
    kinds = floats.base.kind, integers.base.kind
    if floats.shape != (width,) or integers.shape not in ((1,), (2,)) or kinds != ("f", "i"):
        raise InputError(
            f"{path}: expected {width} floats and 1 or 2 integers for each jet, got {floats} and {integers}"
        )
    return table


def check_pandas_format(file: h5py.File, path: Path) -> None:
    """Raise InputError if pandas saved the table in its fixed format, or under another name than 'table'."""
    for key, group in file.items():
        if not isinstance(group, h5py.Group):
            continue
        fixed = "block0_values" in group or "axis0" in group
        if fixed or (key != "table" and "table" in group and "table" not in file):
            problem = 'was saved with format="fixed"' if fixed else "has another name than 'table'"
            raise InputError(
                f"{path}: the pandas table '{key}' {problem}. Save it again: "
                f"pandas.read_hdf('{path}', '{key}').to_hdf('{path.stem}_table.h5', key='table', format='table')"
            )


def table_rows(block: np.ndarray, nobj: int, source: str, first: int) -> dict[str, np.ndarray]:
    """Make the rows to write from rows of the table; InputError if the values do not fit the expected columns."""
    momenta = block["values_block_0"].reshape(len(block), PARTICLES + 1, 4)
    labels = block["values_block_1"]
    if not np.isin(labels[:, -1], (0, 1)).all() or not np.isin(labels, (0, 1, 2)).all():
        raise InputError(f"{source}: jets from {first}: expected ttv in 0, 1, 2, then is_signal_new in 0, 1")
    rows = jet_rows(momenta[:, :PARTICLES], nobj, source, first)
    find_particles(momenta[:, PARTICLES:], Source(f"{source}: true momentum", first))
    rows |= {"is_signal": labels[:, -1].astype(np.int8), "truth_Pmu": momenta[:, PARTICLES].astype(np.float32)}
    return rows if labels.shape[1] == 1 else rows | {"ttv": labels[:, 0].astype(np.int8)}


def convert_tables(paths: list[Path], out: Path, nobj: int) -> None:
    """Write the jets of all tables, in order, to one file."""
    tables = [open_table(path) for path in paths]
    if len({table.dtype["values_block_1"].shape for table in tables}) > 1:
        raise InputError("some input files have ttv and some do not. Convert them one by one.")
    with progress(sum(map(len, tables)), out.name) as bar, jet_file(out, ATTRIBUTES) as file:
        for path, table in zip(paths, tables, strict=True):
            for first in range(0, len(table), BLOCK):
                try:
                    block = table[first : first + BLOCK]
                except OSError as error:
                    raise InputError(
                        f"{path}: cannot read the table ({first_line(error)}). If it is compressed with Blosc, install "
                        f"hdf5plugin (pip install hdf5plugin); otherwise download the file again."
                    ) from error
                file.append(table_rows(block, nobj, str(path), first))
                bar.update(len(block))
    report(out, file)


def signal_of(labels: np.ndarray, column: int, source: str, first: int) -> np.ndarray:
    """Convert labels (n,), (n, 1), or one-hot (n, 2) with the signal in `column`, to is_signal (n,) int8."""
    if labels.ndim == 2 and labels.shape[1] == 2:
        if (labels.sum(1) != 1).any():
            raise InputError(f"{source}: jets from {first}: expected one-hot labels of 0 and 1, got other values")
        labels = labels[:, column]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise InputError(f"{source}: jets from {first}: expected labels (N,) or one-hot (N, 2), of 0 and 1")
    return labels.astype(np.int8)


def convert_npz(path: Path, outputs: dict[str, Path], nobj: int, column: int) -> None:
    """Write each split `name` of the file to outputs[name], one after another."""
    for name, out in outputs.items():
        source = f"{path}: kinematics_{name}"
        with ExitStack() as stack:
            momenta = stack.enter_context(NpzArray(path, f"kinematics_{name}"))
            labels = stack.enter_context(NpzArray(path, f"labels_{name}"))
            if len(momenta.shape) != 3 or momenta.shape[2] != 4 or labels.shape[0] != momenta.shape[0]:
                raise InputError(f"{source}: expected (N, M, 4) and N labels, got {momenta.shape} and {labels.shape}")
            bar = stack.enter_context(progress(momenta.shape[0], out.name))
            file = stack.enter_context(jet_file(out, ATTRIBUTES))
            for first in range(0, momenta.shape[0], BLOCK):
                number = min(BLOCK, momenta.shape[0] - first)
                signal = signal_of(labels.read(number), column, source, first)
                rows = jet_rows(momenta.read(number), nobj or momenta.shape[1], source, first)
                file.append(rows | {"is_signal": signal})
                bar.update(number)
        report(out, file)


def main(argv=None) -> None:
    """Parse the flags and convert the input files."""
    inputs = "one or several tables (.h5), or one .npz file"
    parser = converter_parser(__doc__, inputs, "all: 200 in a table, M in an .npz file")
    parser.add_argument(
        "--signal-column", type=int, choices=(0, 1), default=1, help="signal column of one-hot labels in an .npz file"
    )
    args = parser.parse_args(argv)
    if args.inputs[0].suffix != ".npz":
        check_outputs(args, [args.out])
        convert_tables(args.inputs, args.out, args.nobj or PARTICLES)
        return
    if len(args.inputs) > 1:
        raise InputError("expected one .npz file, or only tables. Convert them one by one.")
    check_outputs(args, [])
    keys = npz_keys(args.inputs[0])
    outputs = {name: split_path(args.out, split) for name, split in SPLITS.items() if f"kinematics_{name}" in keys}
    if not outputs:
        raise InputError(
            f"{args.inputs[0]}: expected kinematics_train, _valid or _test, got {', '.join(keys) or 'none'}"
        )
    check_outputs(args, list(outputs.values()))
    convert_npz(args.inputs[0], outputs, args.nobj, args.signal_column)


if __name__ == "__main__":
    run_converter(main)
