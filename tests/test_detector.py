"""The description of the detector."""

import math

import pytest

from puffin.detector import PILARNET


def test_scaled_units():
    """The cube's corners lie on the unit sphere, and a voxel is one 768th of the edge. Breaks with another scale."""
    corner = (PILARNET.size - PILARNET.centre) / PILARNET.half_diagonal
    assert math.sqrt(3) * corner == pytest.approx(1, rel=1e-15)
    assert PILARNET.voxel == pytest.approx(2 / 768 / 3**0.5, rel=1e-15)
    assert PILARNET.unit_cm * 2 / 3**0.5 == pytest.approx(230.4, rel=1e-12)


def test_classes():
    """Breaks if another class than the low-energy deposits is removed."""
    assert PILARNET.classes(remove_led=False) == ("shower", "track", "michel", "delta", "led")
    assert PILARNET.classes(remove_led=True) == ("shower", "track", "michel", "delta")
    assert sum(PILARNET.class_counts) / PILARNET.training_events == pytest.approx(4366.5, abs=1)
