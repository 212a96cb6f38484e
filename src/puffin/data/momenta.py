"""Check four-momenta, whatever file they come from, and bring their columns into our order. Needs no PyTorch.

A particle has E > 0 and E >= |p|; an entry that is no particle is padding and is zero in all four columns. Files with
columns in another order, with negative energies, or with padding of -1, -999 or nan would train a network without an
error, only with wrong results. So whatever is read goes through `find_particles`.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from puffin.data.momentum_columns import CARTESIAN, cartesian, likely_columns, polar_in_disguise, polar_problem
from puffin.errors import InputError

log = logging.getLogger("puffin")

# E^2 - p^2 may be below 0 by this fraction of E^2, from rounding (of text, too); wrong columns give far more
LIGHTLIKE = 1e-3
_METRIC = np.array([1 + LIGHTLIKE, -1, -1, -1])
_FEW = 20  # particles; fewer are too few to say that their columns look like others
# Median transverse momentum of jets that is still credible in GeV
_SOFTEST, _HARDEST = 1.0, 2e4
_LARGEST_ENERGY = 1e15  # of a particle, in any unit; from 1e19 on its square is infinite in single precision


class Source(NamedTuple):
    """Where momenta come from, for messages.

    name: file and array; first: number of the first jet there; what: "jet" or "event"; columns: what the four columns
    hold; remedy: from columns that look right to what the user should do."""

    name: str
    first: int = 0
    what: str = "jet"
    columns: tuple[str, ...] = CARTESIAN
    remedy: Callable[[str], str] = "Give --columns {}.".format


class Particles(NamedTuple):
    """The particles of some jets: momenta (n, 4): E, px, py, pz; counts (jets,); valid (jets, M), which entries."""

    momenta: np.ndarray
    counts: np.ndarray
    valid: np.ndarray


def find_particles(stored: np.ndarray, source: Source, scale: float = 1, dtype=np.float32) -> Particles:
    """Return the particles of jets, stored as (jets, M, 4) in the columns of `source`; entries with E = 0 are padding.

    scale: factor on the momenta; dtype: of the result. InputError if an entry is neither a particle (finite, E > 0,
    E >= |p| within rounding) nor padding (zero in all columns); it names the jet and the likely cause."""
    fail = partial(_explain, stored, source)
    if source.columns != CARTESIAN:
        problem = polar_problem(stored, source.columns)
        if problem is not None:
            fail()
        block = cartesian(stored, source.columns)
    else:
        block = stored
    if scale != 1:
        block = block * scale
    with np.errstate(all="ignore"):
        block = block.astype(dtype, copy=False)
        if not _finite(block):
            fail()
        valid = block[..., 0] != 0
        momenta = block.reshape(-1, 4).take(np.flatnonzero(valid), 0)  # several times as fast as block[valid]
        squares = np.square(momenta)
        energies = momenta[:, 0]
        wrong = energies.min(initial=1) < 0 or energies.max(initial=1) > _LARGEST_ENERGY
        wrong |= not (squares @ _metric(stored.dtype).astype(squares.dtype) >= 0).all()
    if wrong or np.count_nonzero(block != 0) != np.count_nonzero(momenta != 0):
        fail()
    return Particles(momenta, valid.sum(-1), valid)


def check_number(stated: np.ndarray, found: Particles, whole: bool, source: Source) -> None:
    """Raise InputError if the number of particles that a file states for some jets (Nobj) is not what it holds.

    stated (jets,); found: of the first entries of each jet, or of all of them (`whole`). A jet may have had more
    particles than a file has entries. Entries with E = 0 before the last particle may be counted or not."""
    expected = np.minimum(stated, found.valid.shape[1])
    if np.array_equal(expected, found.counts):
        return
    last = np.where(found.valid.any(1), found.valid.shape[1] - found.valid[:, ::-1].argmax(1), 0)
    wrong = (found.counts != expected) & (last != expected)
    if not whole:  # particles may follow after entries with E = 0
        wrong &= (found.counts > expected) | (found.counts == 0)
    if wrong.any():
        jet = int(wrong.argmax())
        many = found.counts[jet]
        reason = "The rows were probably never written." if many == 0 else "Correct Nobj, or set padding to zeros."
        raise InputError(
            f"{source.name} of {source.what} {source.first + jet}: Nobj is {int(stated[jet])}, but the jet has {many} "
            f"{'particle' if many == 1 else 'particles'} with E > 0. {reason}"
        )


def check_jets(found: Particles, source: Source, scaled: bool = False) -> None:
    """Check what only several jets show; for the first jets of a file.

    scaled: whether the user gave --scale, and so knows the unit. InputError if the columns are pt, eta, phi, m, which
    can pass for E, px, py, pz. Warning if the sums of the jets are not those of jets in GeV."""
    if source.columns == CARTESIAN and len(found.momenta) >= 5 * _FEW and polar_in_disguise(found.momenta):
        raise InputError(f"{source.name}: the columns look like pt,eta,phi,m. {source.remedy('pt,eta,phi,m')}")
    starts = np.cumsum(found.counts)[:-1]
    jets = [part.sum(0, dtype=np.float64) for part in np.split(found.momenta, starts) if len(part)]
    if len(jets) < _FEW:
        return
    sums = np.array(jets)
    pt = np.hypot(sums[:, 1], sums[:, 2])
    mass = np.sqrt(np.maximum(sums[:, 0] ** 2 - (sums[:, 1:] ** 2).sum(1), 0))
    median, median_mass = float(np.median(pt)), float(np.median(mass))
    if not scaled and not _SOFTEST <= median <= _HARDEST:
        unit, factor = ("MeV", 0.001) if median > _HARDEST else ("TeV", 1000)
        log.warning(
            f"{source.name}: the jets have a median pT of {median:.3g} and a median mass of {median_mass:.3g}, which "
            f"is unusual in GeV. If the momenta are in {unit}, give --scale {factor:g}."
        )
    elif median_mass > 5 * median:
        log.warning(
            f"{source.name}: the jets have a median mass of {median_mass:.3g} GeV, but a median pT of {median:.3g} "
            f"GeV: their particles fly apart. Check that the columns are {','.join(CARTESIAN)}."
        )


def _metric(stored: np.dtype) -> np.ndarray:
    """Return the factors of the squares of E, px, py, pz whose sum must not be negative."""
    if stored == np.float16:  # has three digits only
        return _METRIC + [8 * float(np.finfo(np.float16).eps), 0, 0, 0]
    return _METRIC


def _finite(block: np.ndarray) -> bool:
    """Return whether all numbers are finite; their sum of squares, which is fast, nearly always shows it."""
    flat = block.reshape(-1)
    return bool(np.isfinite(flat @ flat)) or bool(np.isfinite(block).all())


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _explain(stored: np.ndarray, source: Source) -> None:
    """Raise the InputError that says what is wrong with momenta (jets, M, 4)."""
    rows = stored.astype(np.float64)
    for problem in (_not_finite, _padding, _other_columns, _unphysical):
        found = problem(rows, source)
        if found is not None:
            jet, text = found
            where = f" of {source.what} {source.first + jet}" if jet is not None else ""
            raise InputError(f"{source.name}{where}{text}")
    raise InputError(
        f"{source.name} of {source.what}s from {source.first}: momenta are too large or too small for single "
        f"precision. Check their unit, and --scale."
    )


def _first(wrong: np.ndarray) -> int:
    """Return the first jet with a wrong entry, from (jets, M) bool."""
    return int(wrong.any(1).argmax())


def _not_finite(rows: np.ndarray, source: Source) -> tuple[int | None, str] | None:
    finite = np.isfinite(rows)
    if finite.all():
        return None
    wrong = ~finite.all(-1)
    if np.isnan(rows[wrong]).all() and wrong.sum() > 1:
        return _first(wrong), f": nan is used as padding ({_share(wrong)}). Set these entries to zero."
    return _first(wrong), f" is not finite. Correct or remove the {source.what}."


def _padding(rows: np.ndarray, source: Source) -> tuple[int | None, str] | None:
    """Find entries with one and the same negative number, or several with one and the same negative energy."""
    energies = rows[..., source.columns.index("E" if "E" in source.columns else "pt")]
    constant = (rows == rows[..., :1]).all(-1) & (energies < 0)
    values = np.unique(rows[constant])
    if len(values) == 0:
        negative = energies < 0
        values = np.unique(energies[negative])
        if len(values) != 1 or negative.sum() < 3 or values[0] != np.round(values[0]):
            return None
        constant = negative
    names = " and ".join(f"{value:g}" for value in values[:3])
    return (
        _first(constant),
        f": {names} {'is' if len(values) == 1 else 'are'} used as padding ({_share(constant)}). Set these entries to "
        f"zero in all four columns.",
    )


def _other_columns(rows: np.ndarray, source: Source) -> tuple[int | None, str] | None:
    columns = likely_columns(rows[rows.any(-1)], LIGHTLIKE)
    if columns is None or columns == source.columns:
        return None
    text = ",".join(columns)
    return None, f": expected the columns {','.join(source.columns)}, but they look like {text}. {source.remedy(text)}"


def _unphysical(rows: np.ndarray, source: Source) -> tuple[int | None, str] | None:
    advice = f"Correct or remove the {source.what}; the columns should be {','.join(source.columns)}."
    problem = polar_problem(rows, source.columns)
    if problem is not None:
        wrong, text = problem
        jet = _first(wrong)
        return jet, f", particle {int(wrong[jet].argmax())}: {text}. {advice}"
    with np.errstate(all="ignore"):
        momenta = cartesian(rows, source.columns)
        size = np.sqrt(np.square(momenta[..., 1:]).sum(-1))
        squares = np.square(momenta) @ _metric(rows.dtype)
    wrong = (momenta[..., 0] < 0) | (momenta[..., 0] > _LARGEST_ENERGY) | ~(squares >= 0)
    if not wrong.any():
        return None
    jet = _first(wrong)
    particle = int(wrong[jet].argmax())
    energy, p = momenta[jet, particle, 0], size[jet, particle]
    if energy < 0:
        return jet, f", particle {particle}: the energy is negative ({energy:g}). {advice}"
    if energy > _LARGEST_ENERGY:
        return jet, f", particle {particle}: the energy is {energy:g}, which is too large in any unit. {advice}"
    if energy == 0:
        return jet, f", particle {particle}: the energy is 0, as of padding, but |p| is {p:g}. {advice}"
    return jet, f", particle {particle}: E = {energy:g} is less than |p| = {p:g}. {advice}"


def _share(wrong: np.ndarray) -> str:
    return f"{wrong.mean():.3g} of the entries" if wrong.mean() < 0.01 else f"{wrong.mean():.0%} of the entries"
