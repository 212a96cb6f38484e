"""The hard processes of make_jets.py, and the true origin of their jets. Four-momenta are (E, px, py, pz) in GeV.

To add a process, add an entry to PROCESSES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

NEUTRINOS = (12, 14, 16)
CHARM, BOTTOM, TOP, Z, W, HIGGS = 4, 5, 6, 23, 24, 25
RESONANCES = (TOP, Z, W, HIGGS)


class Truth(NamedTuple):
    """Four-momenta (4,) of the particle that initiated the jet, and of the W and b quark that a top decays to.

    origin: a top, W, Z or Higgs boson before it decays, or the quark or gluon of the hard process; w: the W before it
    decays, of a top or the origin itself; b: the b quark of a top. w and b are 0 if there is no such particle. decay:
    the visible quarks, gluons and leptons (k, 4) that a resonance decays to, before they radiate."""

    origin: np.ndarray
    w: np.ndarray = np.zeros(4)
    b: np.ndarray = np.zeros(4)
    decay: np.ndarray = np.zeros((0, 4))


NO_TRUTH = Truth(np.zeros(4))


@dataclass(frozen=True)
class Process:
    """A hard process.

    settings: of Pythia; find_truth(event): returns a Truth for each particle that a jet may be matched to; accept(hard
    process): whether the event may be used; matched: whether a jet must match a Truth, otherwise the hardest jet is
    taken; resonance: PDG code of the particle that initiates the jet, None for partons; pthat: range of pTHat, in units
    of pt_min and pt_max; window: range of pT that the early cut of jet_generator.py leaves, in the same units; slope:
    the pT spectrum falls approximately as pT to the power -slope.
    """

    description: str
    is_signal: bool
    settings: tuple[str, ...]
    find_truth: Callable
    matched: bool = True
    accept: Callable = lambda record: True
    resonance: int | None = None
    pthat: tuple[float, float] = (0.7, 2.0)
    window: tuple[float, float] = (0.94, 1.2)
    slope: float = 6.0


def fourmomentum(particle):
    """Return the four-momentum (4,) float64 of a Pythia particle."""
    return np.array([particle.e(), particle.px(), particle.py(), particle.pz()])


def daughters_of(event, particle):
    """Return the particles that a particle decays to, or its next copy."""
    return [event[i] for i in particle.daughterList()]


def find_decay(event, particle):
    """Return the visible quarks, gluons and leptons that a resonance decays to, before they radiate: (k, 4)."""
    particle, momenta = event[particle.iBotCopyId()], []
    for daughter in daughters_of(event, particle):
        if daughter.idAbs() in RESONANCES:
            momenta.extend(find_decay(event, daughter))
        elif daughter.idAbs() not in NEUTRINOS:
            momenta.append(fourmomentum(daughter))
    return np.array(momenta).reshape(-1, 4)


def find_tops(pythia):
    """Return a Truth for each top: the copy that decays, its W (the copy that decays), and its b quark.

    The b is taken before it radiates and the W after the recoil, so W + b equals the top up to this recoil.
    """
    event, tops = pythia.event, []
    for particle in event:
        if particle.idAbs() != TOP:
            continue
        daughters = daughters_of(event, particle)
        if sorted(d.idAbs() for d in daughters) != [BOTTOM, W]:
            continue  # not the last copy
        b, w = sorted(daughters, key=lambda d: d.idAbs())
        momenta = fourmomentum(particle), fourmomentum(event[w.iBotCopyId()]), fourmomentum(b)
        tops.append(Truth(*momenta, find_decay(event, particle)))
    return tops


def find_bosons(pythia, code):
    """Return a Truth for each boson (by PDG code) of the event, of the copy that decays."""
    event, bosons = pythia.event, []
    for p in event:
        if p.idAbs() == code and event[p.daughter1()].idAbs() != code:
            momentum = fourmomentum(p)
            bosons.append(Truth(momentum, *([momentum] if code == W else []), decay=find_decay(event, p)))
    return bosons


def find_parton(pythia):
    """Return a Truth for the quark or gluon that is produced with a Z."""
    record = pythia.process
    return [Truth(fourmomentum(record[i])) for i in (5, 6) if record[i].idAbs() != Z]


def light(record):
    """Return whether no parton of a 2 -> 2 process is charm or bottom.

    Pythia's settings exclude heavy quark production, but not heavy quarks of the proton in qg -> qg and qq -> qq. Heavy
    quarks from gluon splittings in the shower belong to light jets and are allowed.
    """
    return all(record[i].idAbs() not in (CHARM, BOTTOM) for i in (3, 4, 5, 6))


def light_parton(record):
    """Return whether the parton that is produced with a Z is neither charm nor bottom."""
    return all(record[i].idAbs() not in (CHARM, BOTTOM) for i in (5, 6))


def one_leptonic_w(record):
    """Return whether exactly one of two W decays to a lepton."""
    return sum(p.idAbs() in NEUTRINOS and record[p.mother1()].idAbs() == W for p in record) == 1


PURE_Z = "WeakZ0:gmZmode = 2"  # no photon
INVISIBLE_Z = (PURE_Z, "23:onMode = off", "23:onIfAny = 12 14 16")
TOP_PAIRS = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", "6:onMode = off", "6:onIfMatch = 24 5")
WITH_NEUTRINO = (0.94, 2.0)  # which takes a part of the resonance's pT out of the jet
HADRONIC_W = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")


def higgs(decay, *settings, window=(0.94, 1.4), **options):
    """Make the process pp -> H Z, Z -> neutrinos, with the Higgs decay that `settings` choose."""
    return Process(
        f"pp -> H Z, Z -> neutrinos, {decay}; hardest jet within the cuts and within the radius of the H",
        is_signal=True,
        settings=("HiggsSM:ffbar2HZ = on", *INVISIBLE_Z, "25:onMode = off", *settings),
        find_truth=partial(find_bosons, code=HIGGS),
        resonance=HIGGS,
        window=window,
        **options,
    )


# Why pTHat starts at 0.7 pt_min: at the default cuts, one event in five or six yields a jet, but only one in fifteen if
# pTHat starts at 0.55 pt_min. About 10% of the QCD jets and 30% of the tops have a pTHat below 0.7 pt_min, as the hard
# pair recoils against initial-state radiation, and less than 0.1% have one above 2 pt_max. The pT spectrum between the
# cuts does not depend on this limit: in each fifth of the range it agrees within 2% for 0.55 and 0.73 pt_min.
PROCESSES = {
    "top": Process(
        "pp -> t tbar, t -> b W, W -> q qbar'; hardest jet within the cuts and within the radius of a top",
        is_signal=True,
        settings=(*TOP_PAIRS, *HADRONIC_W),
        find_truth=find_tops,
        resonance=TOP,
        window=(0.94, 1.4),
    ),
    "qcd": Process(
        "pp -> two light quarks or gluons; hardest jet within the cuts",
        is_signal=False,
        settings=(
            "HardQCD:gg2gg = on",
            "HardQCD:gg2qqbar = on",
            "HardQCD:qg2qg = on",
            "HardQCD:qq2qq = on",
            "HardQCD:qqbar2gg = on",
            "HardQCD:qqbar2qqbarNew = on",
            "HardQCD:nQuarkNew = 3",
        ),
        find_truth=lambda pythia: [],
        matched=False,
        accept=light,
    ),
    "gluon": Process(
        "q qbar -> Z g, Z -> neutrinos; hardest jet within the cuts and within the radius of the gluon",
        is_signal=False,
        settings=("WeakBosonAndParton:qqbar2gmZg = on", *INVISIBLE_Z),
        find_truth=find_parton,
        accept=light_parton,
    ),
    "quark": Process(
        "q g -> Z q, q = u, d, s, Z -> neutrinos; hardest jet within the cuts and within the radius of the quark",
        is_signal=True,
        settings=("WeakBosonAndParton:qg2gmZq = on", *INVISIBLE_Z),
        find_truth=find_parton,
        accept=light_parton,
    ),
    "w": Process(
        "pp -> W and a parton, W -> q qbar'; hardest jet within the cuts and within the radius of the W",
        is_signal=True,
        settings=(
            "WeakBosonAndParton:qqbar2Wg = on",
            "WeakBosonAndParton:qg2Wq = on",
            *HADRONIC_W,
        ),
        find_truth=partial(find_bosons, code=W),
        resonance=W,
    ),
    "z": Process(
        "pp -> Z and a parton, Z -> q qbar; hardest jet within the cuts and within the radius of the Z",
        is_signal=True,
        settings=(
            "WeakBosonAndParton:qqbar2gmZg = on",
            "WeakBosonAndParton:qg2gmZq = on",
            PURE_Z,
            "23:onMode = off",
            "23:onIfAny = 1 2 3 4 5",
        ),
        find_truth=partial(find_bosons, code=Z),
        resonance=Z,
    ),
    "hbb": higgs("H -> b bbar", "25:onIfMatch = 5 5"),
    "hcc": higgs("H -> c cbar", "25:onIfMatch = 4 4"),
    "hgg": higgs("H -> g g", "25:onIfMatch = 21 21"),
    "h4q": higgs("H -> W W*, both W -> q qbar'", "25:onIfMatch = 24 24", *HADRONIC_W),
    "hlvqq": higgs(
        "H -> W W*, one W -> q qbar', one W -> e nu or mu nu",
        "25:onIfMatch = 24 24",
        "24:onMode = off",
        "24:onIfAny = 1 2 3 4 5 11 13",
        accept=one_leptonic_w,
        window=WITH_NEUTRINO,
    ),
    "tblv": Process(
        "pp -> t tbar, t -> b W, W -> e nu or mu nu; hardest jet within the cuts and within the radius of a top",
        is_signal=True,
        settings=(*TOP_PAIRS, "24:onMode = off", "24:onIfAny = 11 13"),
        find_truth=find_tops,
        resonance=TOP,
        window=WITH_NEUTRINO,
    ),
}
JETCLASS = ("qcd", "hbb", "hcc", "hgg", "h4q", "hlvqq", "z", "w", "top", "tblv")  # in the order of arXiv:2202.03772
