"""Writing files of jets: what the generator and the converters of data/ share. Needs no PyTorch.

A file of N jets holds `Pmu` (N, M, 4) float32: E, px, py, pz [GeV], by falling pT, zero-padded at the end; `Nobj` (N,)
int32; and any further arrays of one row for each jet: labels (N,), one-hot (N, K), features of particles (N, M).
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from puffin.data.targets import first_not_one_hot
from puffin.errors import InputError
from puffin.files import whole_file

BLOCK = 2048  # jets that a converter holds in memory at once
CHUNK = 128  # jets in a chunk of a file


class JetWriter:
    """Appends jets to an open HDF5 file. `jets` were written, `empty` had no particle and were left out."""

    def __init__(self, file: h5py.File, level: int):
        self._file, self._level = file, level
        self.jets = self.empty = 0

    def append(self, rows: dict[str, np.ndarray]) -> None:
        """Append {key: (n, ...)}, `Nobj` among them; the first call fixes keys, widths and dtypes."""
        filled = rows["Nobj"] > 0
        self.empty += int((~filled).sum())
        after = self.jets + int(filled.sum())
        for key, values in rows.items():
            if key not in self._file:
                self._file.create_dataset(
                    key,
                    (0, *values.shape[1:]),
                    values.dtype,
                    maxshape=(None, *values.shape[1:]),
                    chunks=(CHUNK, *values.shape[1:]),
                    compression="gzip",
                    compression_opts=self._level,
                    shuffle=True,
                    track_times=False,
                )
            self._file[key].resize(after, axis=0)
            self._file[key][self.jets :] = values[filled]
        self.jets = after


@contextmanager
def jet_file(path: Path, attributes: dict, level: int = 4) -> Iterator[JetWriter]:
    """A JetWriter for `path`, which appears whole (or is replaced) when the block ends without an error, or not at all.

    level: of gzip. InputError if no jet was written."""
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(attributes)
        writer = JetWriter(file, level)
        yield writer
        check_filled(path, writer)


def check_filled(path: Path, writer: JetWriter) -> None:
    """InputError if no jet was written. For converters of several files, so that all appear or none."""
    if writer.jets == 0:
        raise InputError(f"{path}: not written, there is no jet in it ({writer.empty} without particles)")


def jet_rows(
    momenta: np.ndarray, nobj: int, source: str, first: int = 0, **features: np.ndarray
) -> dict[str, np.ndarray]:
    """Rows for JetWriter.append: `Nobj`, `Pmu` (n, nobj, 4) and the features (n, nobj), ordered, cut and padded alike.

    momenta (n, M, 4): E, px, py, pz [GeV]; entries with E = 0 are padding, wherever they stand. features (n, M) keep
    their dtype. Order: falling pT, equal ones as they came. source, first: file and number of the first jet, for the
    InputError where a momentum or feature of a particle is not finite or an energy is negative."""
    real = momenta[..., 0] != 0
    bad = ~np.isfinite(momenta).all((1, 2)) | (momenta[..., 0] < 0).any(1)
    for values in features.values():
        bad |= (real & ~np.isfinite(values)).any(1)
    if bad.any():
        jet = first + int(bad.argmax())
        raise InputError(f"{source}: jet {jet}: expected finite numbers and E >= 0; mend or remove the jet")
    pt = np.where(real, np.hypot(momenta[..., 1], momenta[..., 2], dtype=np.float64), -1)
    order = np.argsort(-pt, axis=1, kind="stable")[:, :nobj]
    real = np.take_along_axis(real, order, 1)

    def arrange(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        out = np.zeros((len(values), nobj, *values.shape[2:]), dtype)
        extra = (1,) * (values.ndim - 2)
        kept = np.take_along_axis(values, order.reshape(*order.shape, *extra), 1)
        out[:, : order.shape[1]] = np.where(real.reshape(*real.shape, *extra), kept, 0)
        return out

    rows = {"Nobj": real.sum(1, dtype=np.int32), "Pmu": arrange(momenta, np.float32)}
    return rows | {key: arrange(values, values.dtype) for key, values in features.items()}


def one_hot_numbers(flags: np.ndarray, names: Sequence[str], source: str, first: int = 0) -> np.ndarray:
    """Class numbers (n,) int32 of one-hot rows (n, K); InputError where not exactly one flag of a row is 1."""
    jet = first_not_one_hot(flags)
    if jet is not None:
        raise InputError(
            f"{source}: jet {first + jet}: expected exactly one of {', '.join(names)} to be 1, the others 0"
        )
    return flags.argmax(1).astype(np.int32)


def progress(total: int, name: str) -> tqdm:
    """A bar over jets: drawn on a terminal, a line each minute elsewhere."""
    return tqdm(total=total, desc=name, unit="jet", mininterval=0.5 if sys.stderr.isatty() else 60)


class Parser(argparse.ArgumentParser):
    """A bad flag is one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def converter_parser(doc: str, inputs: str, nobj: str) -> Parser:
    """A parser with what every converter has. doc: of the script; inputs, nobj: help on them."""
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, help=inputs)
    parser.add_argument("--out", type=Path, required=True, help="HDF5 file to write; its folder is made if missing")
    parser.add_argument(
        "--nobj", type=int, help=f"particles kept of a jet, the hardest; the file's width (default: {nobj})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    return parser


def check_outputs(args: argparse.Namespace, outputs: Sequence[Path]) -> None:
    """InputError for a --nobj below 1, an input that is missing, or an output that is an input or there already."""
    if args.nobj is not None and args.nobj < 1:
        raise InputError(f"--nobj: expected at least 1, got {args.nobj}")
    for path in args.inputs:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    for path in outputs:
        if path.resolve() in [p.resolve() for p in args.inputs]:
            raise InputError(f"{path}: is an input; choose another --out")
        if path.exists() and not args.overwrite:
            raise InputError(f"{path}: is there already; choose another --out, or replace it with --overwrite")


def split_path(path: Path, split: str) -> Path:
    """jets.h5 -> jets_train.h5."""
    return path.with_name(f"{path.stem}_{split}{path.suffix}")


def report(path: Path, writer: JetWriter) -> None:
    """Say what was written."""
    empty = f" ({writer.empty} without particles left out)" if writer.empty else ""
    print(f"{path}: {writer.jets} jets{empty}, {path.stat().st_size / 1e6:.2f} MB")


def run_converter(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Call a converter's main; failures, Ctrl-C and SIGTERM become one line and a non-zero exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(argv)
    except KeyboardInterrupt:
        sys.exit("interrupted; files that were not complete are not there")
    except InputError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except Exception as error:  # the last place that can turn a failure into a line
        sys.exit(f"error: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
