"""`python -m puffin.ops`: show which kernels are built and loaded, and why others are not."""

import importlib

from puffin.ops.library import describe

if __name__ == "__main__":
    for name in ("chamfer", "cnms", "fps", "messages", "neighbors", "pairs", "segments"):
        importlib.import_module(f"puffin.ops.{name}")  # defines its ops
    print(describe())
