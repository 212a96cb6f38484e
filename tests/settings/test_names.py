"""Tables of names: quick to import, and implemented by the modules that they belong to."""

import subprocess
import sys

from puffin.data.scalars import DATASETS
from puffin.data.scalars import TRANSFORMS as TRANSFORM_FUNCTIONS
from puffin.losses.clouds import CLASS_LOSSES as CLASS_LOSS_FUNCTIONS
from puffin.losses.momenta import MOMENTUM_LOSSES as MOMENTUM_LOSS_FUNCTIONS
from puffin.settings.names import CLASS_LOSSES, JET_DATASETS, MOMENTUM_LOSSES, TRANSFORMS


def test_names_are_quick_to_import():
    """Breaks if --help has to wait for PyTorch, NumPy or scikit-learn."""
    code = """if True:
        import sys
        import puffin.detector, puffin.settings.names, puffin.settings.types
        heavy = {"torch", "numpy", "sklearn", "h5py", "matplotlib", "optuna"} & set(sys.modules)
        assert not heavy, heavy"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_implemented():
    """In the same order, which is that of CSV columns. Breaks if a name has no function, or a function no help."""
    tables = {
        "momentum losses": (MOMENTUM_LOSSES, MOMENTUM_LOSS_FUNCTIONS),
        "class losses": (CLASS_LOSSES, CLASS_LOSS_FUNCTIONS),
        "jet data sets": (JET_DATASETS, DATASETS),
        "transforms": (TRANSFORMS, TRANSFORM_FUNCTIONS),
    }
    for name, (described, implemented) in tables.items():
        assert tuple(described) == tuple(implemented), name
        assert all(described.values()), name
