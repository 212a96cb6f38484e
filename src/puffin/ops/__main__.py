"""`python -m puffin.ops`: show which kernels are built and loaded, and why others are not."""

import importlib
import pkgutil

from puffin import ops
from puffin.ops.library import describe

if __name__ == "__main__":
    for module in pkgutil.iter_modules(ops.__path__):
        if module.name != "__main__":
            importlib.import_module(f"puffin.ops.{module.name}")  # defines its ops
    print(describe())
