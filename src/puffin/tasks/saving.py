"""Write files of predictions; a file is complete or absent."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puffin.files import whole_file

FORMATS = ("pt", "h5")


def save_predictions(stem: Path, outputs: dict[str, Tensor], format_: str) -> Path:
    """Write named tensors to <stem>.pt, which torch.load(weights_only=True) reads, or to <stem>.h5; returns the file.

    format_: one of FORMATS. Floating-point numbers are stored in double precision."""
    path = stem.with_name(f"{stem.name}.{format_}")
    outputs = {k: v.double() if v.is_floating_point() else v for k, v in outputs.items()}
    with whole_file(path) as temporary:
        if format_ == "pt":
            torch.save(outputs, temporary)
        else:
            import h5py

            with h5py.File(temporary, "w") as file:
                for name, value in outputs.items():
                    file.create_dataset(name, data=value.numpy(), compression="gzip", shuffle=True)
    return path


def save_table(path: Path, rows: np.ndarray, header: str, format_: str = "%.8g") -> Path:
    """Write rows of numbers (N, C) to a CSV file with a header line; returns the file."""
    with whole_file(path) as temporary:
        np.savetxt(temporary, rows, delimiter=",", header=header, comments="", fmt=format_, encoding="utf-8")
    return path
