"""Checks of a search that need no storage."""

import importlib.util

import pytest

from puffin.errors import InputError
from puffin.settings.sweep import SAMPLERS
from puffin.sweeps.plan import SAMPLER_PACKAGES, check_packages, make_plan


@pytest.mark.parametrize(
    "flags, package",
    [("--task classifier --sampler cmaes", "cmaes"), ("--task pointmae --plot-html", "plotly")],
)
def test_missing_packages_stop_the_search_at_its_start(monkeypatch, flags, package):
    """Optuna imports cmaes only in the second trial, and pictures import plotly in every one."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else found(name, *a))
    with pytest.raises(InputError, match=f"'{package}' is not installed .*pip install"):
        make_plan(flags.split(), "")
    make_plan(["--task", "pointmae"], "")


def test_samplers_with_packages_exist():
    """Breaks if a sampler is renamed, and its package is not checked any more."""
    assert set(SAMPLER_PACKAGES) <= set(SAMPLERS)
    check_packages("tpe", {})
