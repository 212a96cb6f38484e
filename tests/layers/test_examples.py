"""The examples in the docstrings of layers and settings give what they show."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module", ["puffin.layers.masked_batchnorm", "puffin.layers.symmetries", "puffin.settings.letters"]
)
def test_examples(module):
    """Breaks if an example is out of date, or if the module has none any more."""
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted and not results.failed
