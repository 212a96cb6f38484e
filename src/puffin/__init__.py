"""PELICAN jet networks and masked autoencoders for LArTPC point clouds.

    import puffin
    tagger = puffin.load("model/top_best.pt")  # ours or published
    scores = tagger.predict("jets.h5")

`puffin.ops` has the kernels for point clouds. Importing this package does not import PyTorch; its parts do.
"""

import importlib
import os

# Before PyTorch is imported: threads that wait for others soon sleep instead of spinning for milliseconds. With two
# threads on two cores, of which another program uses one, training is 12 times as fast; on quiet cores it is 3% slower.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = ["load", "ops"]


def __getattr__(name: str):
    if name == "load":
        return importlib.import_module("puffin.predictors").load
    if name == "ops":
        return importlib.import_module("puffin.ops")
    raise AttributeError(f"module 'puffin' has no attribute {name!r}")
