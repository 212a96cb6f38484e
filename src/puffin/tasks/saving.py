"""Write and read files of predictions; a file is complete or absent."""

from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from puffin.checkpoints.reading import read_checkpoint
from puffin.checkpoints.writing import save_tensors
from puffin.data.hdf5 import open_hdf5
from puffin.data.hdf5_output import whole_hdf5
from puffin.errors import InputError, not_a_file
from puffin.files import whole_file
from puffin.training.task import Evaluation

FORMATS = ("pt", "h5")


def stem_of(evaluation: Evaluation) -> Path:
    """Return the path of the prediction files of an evaluation that saves them, without their endings."""
    assert evaluation.stem is not None
    return evaluation.stem


def save_predictions(evaluation: Evaluation, outputs: dict[str, Tensor], format_: str) -> Path:
    """Write named tensors to <stem>.pt, which torch.load(weights_only=True) reads, or to <stem>.h5; returns the file.

    `run`, the identity of the run whose weights were evaluated, stands beside the tensors, or in the attributes.
    format_: one of FORMATS. Floating-point numbers are stored in double precision."""
    stem = stem_of(evaluation)
    path = stem.with_name(f"{stem.name}.{format_}")
    outputs = {k: v.double() if v.is_floating_point() else v for k, v in outputs.items()}
    if format_ == "pt":
        save_tensors(path, {**outputs, "run": evaluation.run_id})
        return path
    with whole_hdf5(path) as file:
        file.attrs["run"] = evaluation.run_id
        for name, value in outputs.items():
            file.create_dataset(name, data=value.numpy(), compression="gzip", shuffle=True)
    return path


def read_predictions(path: Path, needed: tuple[str, ...] = ("predict", "targets")) -> dict[str, np.ndarray]:
    """Read the arrays of a file that `save_predictions` wrote, or of published predictions of PELICAN.

    needed: names of arrays. InputError if the file is missing or damaged, lacks one of them, or has other numbers of
    events in them."""
    if not path.is_file():
        raise InputError(f"{not_a_file(path)}. Pass predictions such as predict/NAME.best.test.pt.")
    if path.suffix == ".pt":
        content = {k: v.numpy() for k, v in read_checkpoint(path).items() if isinstance(v, Tensor)}
    else:
        with open_hdf5(path) as file:
            content = {k: v[()] for k, v in file.items() if isinstance(v, h5py.Dataset)}
    missing = [name for name in needed if name not in content]
    if missing:
        raise InputError(
            f"{path}: no array '{missing[0]}' (found: {', '.join(content) or 'none'}). Pass predictions of a jet "
            "script, such as predict/NAME.best.test.pt."
        )
    counts = {name: len(content[name]) for name in needed}
    if len(set(counts.values())) > 1:
        found = " and ".join(f"{count} in {name}" for name, count in counts.items())
        raise InputError(f"{path}: has different numbers of events: {found}; evaluate the checkpoint again")
    return content


def save_table(path: Path, rows: np.ndarray, header: str, format_: str = "%.8g") -> Path:
    """Write rows of numbers (N, C) to a CSV file with a header line; returns the file."""
    with whole_file(path) as temporary:
        np.savetxt(temporary, rows, delimiter=",", header=header, comments="", fmt=format_, encoding="utf-8")
    return path
