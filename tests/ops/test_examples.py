"""The functions that puffin.ops exports, and the examples in their docstrings."""

import doctest
import importlib
import operator
import subprocess
import sys

import pytest

import puffin.ops

OTHERS = (
    "equivariant_nodes",
    "low_rank",
    "piecewise_linear",
    "signed_power",
    "sparse_conv",
)  # with functions that only networks need
MODULES = ["puffin.ops", *(f"puffin.ops.{name}" for name in (*OTHERS, *puffin.ops._MODULES))]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    """Breaks if an example shows something else than the function gives."""
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted and not results.failed


POINT_OPERATIONS = ["ball_count", "ball_query", "centrality_nms", "chamfer_distance", "farthest_point_sampling", "knn"]


@pytest.mark.parametrize("name", POINT_OPERATIONS)
def test_point_operations_have_an_example(name):
    assert ">>> " + name in getattr(puffin.ops, name).__doc__


def test_exports():
    """Each name is the function of its module; others are refused with the choices."""
    for name in puffin.ops.__all__:
        assert getattr(puffin.ops, name).__name__ == name and name in dir(puffin.ops)
    assert set(POINT_OPERATIONS) < set(puffin.ops.__all__)
    with pytest.raises(AttributeError, match="'nearest'.*knn"):
        operator.attrgetter("nearest")(puffin.ops)


def test_the_package_imports_nothing():
    """`import puffin.ops` costs nothing until a function is used."""
    code = "import sys, puffin.ops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
