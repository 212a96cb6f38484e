"""`python -m src.ops`: what is built, what is loaded, and why not."""

from src.ops import chamfer, cnms, fps, messages, neighbors, pairs, segments  # noqa: F401  (defines the ops)
from src.ops.library import describe

if __name__ == "__main__":
    print(describe())
