"""What the four columns of a particle hold: conversion to E, px, py, pz, and how to recognise other columns."""

import numpy as np

CARTESIAN = ("E", "px", "py", "pz")
# Usual orders, those first that fit the fewest other data
_USUAL = (
    ("pt", "eta", "phi", "E"),
    ("E", "pt", "eta", "phi"),
    ("pt", "eta", "phi", "m"),
    ("m", "pt", "eta", "phi"),
    CARTESIAN,
    ("px", "py", "pz", "E"),
)
_FULL_TURN = 2 * np.pi * 1.001
_LARGEST_ETA = 12.0
_MIN_PARTICLES = 3  # to say what columns look like


def cartesian(stored: np.ndarray, columns: tuple[str, ...]) -> np.ndarray:
    """Convert momenta (..., 4) in other columns to E, px, py, pz; where pt = 0, all become 0.

    Columns: E, px, py, pz in any order; or pt, phi, one of eta and y (rapidity), and one of m and E. Those are computed
    in float64; the others keep their dtype."""
    if set(columns) == set(CARTESIAN):
        return stored[..., [columns.index(name) for name in CARTESIAN]]
    with np.errstate(all="ignore"):
        value = {name: stored[..., k].astype(np.float64) for k, name in enumerate(columns)}
        pt, phi = value["pt"], value["phi"]
        if "y" in value:
            transverse = np.hypot(pt, value["m"])
            energy, pz = transverse * np.cosh(value["y"]), transverse * np.sinh(value["y"])
        else:
            pz = pt * np.sinh(value["eta"])
            energy = value["E"] if "E" in value else np.sqrt(pt**2 + pz**2 + value["m"] ** 2)
        momenta = np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pz], -1)
    return np.where(pt[..., None] == 0, 0, momenta)


def polar_problem(stored: np.ndarray, columns: tuple[str, ...]) -> tuple[np.ndarray, str] | None:
    """Say which entries (...,) of momenta (..., 4) cannot be pt, phi, and so on, and why; None if all can be."""
    if "pt" not in columns:
        return None
    value = {name: stored[..., k] for k, name in enumerate(columns)}
    # a mass can be slightly negative from rounding, which E^2 - p^2 of the file's author may have had
    tests = (
        (value["pt"] < 0, "pt is negative"),
        (np.abs(value["phi"]) > _FULL_TURN, "phi is not within -2 pi and 2 pi"),
        (np.abs(value["y" if "y" in value else "eta"]) > 50, "eta or y is not within -50 and 50"),
        (value.get("m", value["pt"]) < -1, "the mass is negative"),
    )
    return next(((wrong, text) for wrong, text in tests if wrong.any()), None)


def likely_columns(particles: np.ndarray, tolerance: float) -> tuple[str, ...] | None:
    """Return which of the usual columns particles (n, 4) fit, or None.

    tolerance: of E^2 - p^2 >= 0, relative to E^2."""
    if len(particles) < _MIN_PARTICLES:
        return None
    return next((columns for columns in _USUAL if _fits(particles, columns, tolerance)), None)


def _fits(particles: np.ndarray, columns: tuple[str, ...], tolerance: float) -> bool:
    """Return whether each particle has E > 0 and E >= |p| in these columns, and angles that a detector measures."""
    if "pt" in columns:
        eta = particles[:, columns.index("eta")]
        if polar_problem(particles, columns) is not None or np.abs(eta).max() > _LARGEST_ETA:
            return False
        if "m" in columns and (particles[:, columns.index("m")] < -0.01).any():
            return False
    momenta = cartesian(particles, columns)
    squares = np.square(momenta)
    return bool((momenta[:, 0] > 0).all() and (squares[:, 1:].sum(1) <= (1 + tolerance) * squares[:, 0]).all())


def polar_in_disguise(momenta: np.ndarray) -> bool:
    """Return whether particles (n, 4) that are valid as E, px, py, pz are certainly pt, eta, phi, m.

    Hard particles have pt > |(eta, phi, m)|. But phi then reaches pi, or 2 pi, and never exceeds it, eta is small,
    and m is never negative: no particles have such px, py and pz."""
    _, eta, phi, mass = momenta.T
    largest = np.abs(phi).max()
    around = 3.0 < largest < 3.1432 or 6.0 < largest < 6.2864
    return bool(around and np.abs(eta).max() < _LARGEST_ETA and mass.min() >= 0)
