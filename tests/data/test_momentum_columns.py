"""Columns of four-momenta: conversion, and which columns numbers look like (whole files: test_momenta.py)."""

import numpy as np
import pytest

from puffin.data.momenta import LIGHTLIKE
from puffin.data.momentum_columns import CARTESIAN, cartesian, likely_columns, polar_in_disguise, polar_problem


def particles(number=500, seed=0):
    """Make particles of a detector: pt, eta, phi, m and rapidity, each (number,)."""
    rng = np.random.default_rng(seed)
    pt, eta, phi = rng.exponential(20, number) + 0.3, rng.uniform(-4, 4, number), rng.uniform(-np.pi, np.pi, number)
    mass = rng.choice([0.0, 0.13957, 0.93827], number)
    momentum = pt * np.cosh(eta)
    energy = np.sqrt(momentum**2 + mass**2)
    rapidity = np.arctanh(pt * np.sinh(eta) / energy)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    return {"pt": pt, "eta": eta, "phi": phi, "m": mass, "y": rapidity, "E": energy, "px": px, "py": py, "pz": pz}


def stored(columns, values):
    return np.stack([values[name] for name in columns], -1)


@pytest.mark.parametrize(
    "columns", ["E px py pz", "py E pz px", "pt eta phi m", "phi E eta pt", "pt y phi m", "m phi y pt"]
)
def test_conversion(columns):
    """Any order. Breaks if the rapidity is taken for the pseudorapidity: protons differ by percents."""
    values = particles()
    found = cartesian(stored(columns.split(), values), tuple(columns.split()))
    np.testing.assert_allclose(found, stored(CARTESIAN, values), rtol=1e-9, atol=1e-9)


def test_padding_remains_zero():
    """Where pt = 0, also if a mass or an angle is stored there."""
    assert not cartesian(np.array([[0, 0, 0, 0.13957], [0, -3, 1, 0]]), ("pt", "eta", "phi", "m")).any()


@pytest.mark.parametrize(
    "columns", ["E px py pz", "px py pz E", "pt eta phi m", "pt eta phi E", "E pt eta phi", "m pt eta phi"]
)
def test_columns_are_recognised(columns):
    """Breaks if a remedy names columns that the data do not have."""
    columns = tuple(columns.split())
    assert likely_columns(stored(columns, particles()), LIGHTLIKE) == columns


def test_what_looks_like_no_columns():
    values = particles()
    assert likely_columns(stored(("px", "py", "pz", "phi"), values), LIGHTLIKE) is None
    assert likely_columns(stored(CARTESIAN, values)[:2], LIGHTLIKE) is None  # too few to say


def test_disguise():
    """Hard particles in pt, eta, phi, m; the control are particles with px, py, pz of the same size."""
    values = particles()
    hard = {name: x[values["pt"] > 12] for name, x in values.items()}
    assert polar_in_disguise(stored(("pt", "eta", "phi", "m"), hard))
    assert not polar_in_disguise(stored(CARTESIAN, hard))
    assert not polar_in_disguise(stored(CARTESIAN, {name: x / 50 for name, x in values.items()}))


def test_impossible_values():
    columns = ("pt", "eta", "phi", "m")
    good = stored(columns, particles())
    assert polar_problem(good, columns) is None and polar_problem(good, CARTESIAN) is None
    for column, value, text in ((0, -1, "pt is"), (1, 99, "eta or y"), (2, 180, "phi is"), (3, -5, "mass is")):
        wrong = good.copy()
        wrong[7, column] = value
        entries, message = polar_problem(wrong, columns)
        assert text in message and np.flatnonzero(entries).tolist() == [7]
