"""`python -m puffin.ops`: what is built, what is loaded, and why not."""

import importlib

from puffin.ops.library import describe

if __name__ == "__main__":
    for name in ("chamfer", "cnms", "fps", "messages", "neighbors", "pairs", "segments"):
        importlib.import_module(f"puffin.ops.{name}")  # defines its ops
    print(describe())
