"""The physics of make_jets.py: hard processes, Pythia 8 events, FastJet jets and the truth that goes with them.

A new process is one entry of PROCESSES. Particles are Pythia's stable ones (default lifetimes: pi, K+-, K0L, n, mu are
stable, K0S and Lambda decay), without neutrinos; there is no detector. Four-momenta are (E, px, py, pz) in GeV.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ECM = 14000.0  # GeV, proton-proton
MAX_BARREN = 20000  # events in a row without a jet before we give up
CHARM, BOTTOM, TOP, Z, W = 4, 5, 6, 23, 24


class GenerationError(RuntimeError):
    """The generator is missing, refused its settings, or finds no jet that passes the cuts."""


class Truth(NamedTuple):
    """Four-momenta (4,) of what the jet comes from: a top, W or Z before it decays, or the quark or gluon of the hard
    process; of the W before it decays (a top's, or the same W again) and of a top's b as the top decays, else 0."""

    origin: np.ndarray
    w: np.ndarray = np.zeros(4)
    b: np.ndarray = np.zeros(4)


NO_TRUTH = Truth(np.zeros(4))


class Jet(NamedTuple):
    """fourmomenta (n, 4) float32, pdgid (n,) int32, by descending pT; truth as three (4,) float64. No padding."""

    fourmomenta: np.ndarray
    pdgid: np.ndarray
    truth: Truth


@dataclass(frozen=True)
class Cuts:
    """pt_min < pT < pt_max in GeV, |eta| < eta_max, for anti-kT jets of this radius; truths match within the radius."""

    pt_min: float
    pt_max: float
    eta_max: float
    radius: float

    def __str__(self):
        return f"anti-kT R = {self.radius:g}, {self.pt_min:g} < pT < {self.pt_max:g} GeV, |eta| < {self.eta_max:g}"


@dataclass(frozen=True)
class Process:
    """A hard process: Pythia settings, the range of pTHat in units of (pt_min, pt_max), and what a jet must match.

    find_truth(pythia) reads the event and returns one Truth for each object that a jet may be matched to, or None if the
    event is not to be used. matched=False: the hardest jet is kept without looking for a match.
    """

    description: str
    is_signal: bool
    settings: tuple[str, ...]
    pthat: tuple[float, float]
    find_truth: Callable
    matched: bool


def fourmomentum(particle):
    """(4,) float64 of a Pythia particle."""
    return np.array([particle.e(), particle.px(), particle.py(), particle.pz()])


def find_tops(pythia):
    """A Truth for each top: the copy that decays, its W (the copy that decays) and the other daughter, the b.

    The b is taken before it radiates, the W after the radiation's recoil, so W + b equals the top up to that recoil.
    """
    event, tops = pythia.event, []
    for particle in event:
        if particle.idAbs() != TOP:
            continue
        daughters = [event[i] for i in particle.daughterList()]
        if sorted(d.idAbs() for d in daughters) != [BOTTOM, W]:
            continue  # a copy before the last
        b, w = sorted(daughters, key=lambda d: d.idAbs())
        tops.append(Truth(fourmomentum(particle), fourmomentum(event[w.iBotCopyId()]), fourmomentum(b)))
    return tops


def decaying(pythia, code):
    """Four-momenta (4,) of the W or Z (by its PDG code) of the event, each as the copy that decays."""
    return [fourmomentum(p) for p in pythia.event if p.idAbs() == code and pythia.event[p.daughter1()].idAbs() != code]


def find_w(pythia):
    """A Truth for each W."""
    return [Truth(w, w) for w in decaying(pythia, W)]


def find_z(pythia):
    """A Truth for each Z."""
    return [Truth(z) for z in decaying(pythia, Z)]


def find_parton(pythia):
    """A Truth for the quark or gluon that leaves the hard process beside a Z, or None where it is charm or bottom."""
    partons = [pythia.process[i] for i in (5, 6) if pythia.process[i].idAbs() != Z]
    return None if any(p.idAbs() in (CHARM, BOTTOM) for p in partons) else [Truth(fourmomentum(p)) for p in partons]


def light_hard_process(pythia):
    """[] where all partons of the 2 -> 2 process are light quarks or gluons, None where one is charm or bottom.

    Pythia's settings keep new heavy quarks out; those of the proton, scattered by qg -> qg and qq -> qq, end here.
    Heavy quarks from the shower's gluon splittings belong to light jets and stay.
    """
    partons = (pythia.process[i].idAbs() for i in (3, 4, 5, 6))
    return None if any(p in (CHARM, BOTTOM) for p in partons) else []


PURE_Z = "WeakZ0:gmZmode = 2"  # no photon
INVISIBLE_Z = (PURE_Z, "23:onMode = off", "23:onIfAny = 12 14 16")

# The range of pTHat. At the default cuts one event in five or six gives a jet from 0.7 pt_min on, one in fifteen from
# 0.55 pt_min on. Below 0.7 pt_min lies roughly a tenth of the QCD jets and a third of the tops, events in which the hard
# pair recoils against initial-state radiation; above 2 pt_max less than one jet in a thousand. The pT spectrum between
# the cuts is the same, within 2 % of the jets in each fifth of the window, for 0.55 and 0.73 pt_min: nothing is sculpted.
PROCESSES = {
    "top": Process(
        "pp -> t tbar, t -> b W, W -> q qbar'; hardest jet within the cuts and within the radius of a top",
        is_signal=True,
        settings=(
            "Top:gg2ttbar = on",
            "Top:qqbar2ttbar = on",
            "6:onMode = off",
            "6:onIfMatch = 24 5",
            "24:onMode = off",
            "24:onIfAny = 1 2 3 4 5",
        ),
        pthat=(0.7, 2.0),
        find_truth=find_tops,
        matched=True,
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
        pthat=(0.7, 2.0),
        find_truth=light_hard_process,
        matched=False,
    ),
    "gluon": Process(
        "q qbar -> Z g, Z -> neutrinos; hardest jet within the cuts and within the radius of the gluon",
        is_signal=False,
        settings=("WeakBosonAndParton:qqbar2gmZg = on", *INVISIBLE_Z),
        pthat=(0.7, 2.0),
        find_truth=find_parton,
        matched=True,
    ),
    "quark": Process(
        "q g -> Z q, q = u, d, s, Z -> neutrinos; hardest jet within the cuts and within the radius of the quark",
        is_signal=True,
        settings=("WeakBosonAndParton:qg2gmZq = on", *INVISIBLE_Z),
        pthat=(0.7, 2.0),
        find_truth=find_parton,
        matched=True,
    ),
    "w": Process(
        "pp -> W and a parton, W -> q qbar'; hardest jet within the cuts and within the radius of the W",
        is_signal=True,
        settings=(
            "WeakBosonAndParton:qqbar2Wg = on",
            "WeakBosonAndParton:qg2Wq = on",
            "24:onMode = off",
            "24:onIfAny = 1 2 3 4 5",
        ),
        pthat=(0.7, 2.0),
        find_truth=find_w,
        matched=True,
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
        pthat=(0.7, 2.0),
        find_truth=find_z,
        matched=True,
    ),
}


def import_generator():
    """The modules (pythia8mc, fastjet); GenerationError with the remedy where they are not installed."""
    try:
        import fastjet
        import pythia8mc
    except ImportError as error:
        raise GenerationError(
            f"jets are made with pythia8mc and fastjet ({error}): pip install --no-build-isolation -e '.[generate]'"
        ) from error
    return pythia8mc, fastjet


def start_pythia(process, cuts, mpi, seed):
    """An initialised Pythia for this process; multi-parton interactions on or off; seed in [1, 900000000]."""
    pythia8mc, _ = import_generator()
    pythia = pythia8mc.Pythia("", False)  # no banner
    low, high = process.pthat[0] * cuts.pt_min, process.pthat[1] * cuts.pt_max
    for setting in (
        "Print:quiet = on",
        f"Beams:eCM = {ECM}",
        "Random:setSeed = on",
        f"Random:seed = {seed}",
        f"PhaseSpace:pTHatMin = {low}",
        f"PhaseSpace:pTHatMax = {high}",
        f"PartonLevel:MPI = {'on' if mpi else 'off'}",
        *process.settings,
    ):
        if not pythia.readString(setting):
            raise GenerationError(f"Pythia refuses the setting {setting!r}")
    if not pythia.init():
        raise GenerationError(f"Pythia does not start with {low:g} < pTHat < {high:g} GeV; change --pt-min or --pt-max")
    return pythia


def delta_r(p, q):
    """Distance in (pseudorapidity, azimuth) of two four-momenta (4,)."""
    eta = [np.arcsinh(v[3] / np.hypot(v[1], v[2])) for v in (p, q)]
    phi = [np.arctan2(v[2], v[1]) for v in (p, q)]
    return float(np.hypot(eta[0] - eta[1], np.remainder(phi[0] - phi[1] + np.pi, 2 * np.pi) - np.pi))


def match(axis, truths, radius):
    """The Truth whose origin is nearest to the jet axis (4,), or None where none lies within the radius."""
    distances = [delta_r(axis, truth.origin) for truth in truths]
    if not distances or min(distances) >= radius:
        return None
    return truths[int(np.argmin(distances))]


def hardest_constituents(fourmomenta, pdgid, nobj_max):
    """At most nobj_max of the constituents (n, 4), (n,), by descending pT, as float32 and int32; E is the true energy."""
    order = np.argsort(-np.hypot(fourmomenta[:, 1], fourmomenta[:, 2]), kind="stable")[:nobj_max]
    return fourmomenta[order].astype(np.float32), pdgid[order].astype(np.int32)


def find_jet(pythia, definition, process, cuts, nobj_max):
    """The one Jet that the current event gives, or None. At most one per event, so that jets are independent."""
    truths = process.find_truth(pythia)
    if truths is None:
        return None
    _, fastjet = import_generator()
    visible = [p for p in pythia.event if p.isFinal() and p.isVisible()]
    inputs = []
    for index, particle in enumerate(visible):
        inputs.append(fastjet.PseudoJet(particle.px(), particle.py(), particle.pz(), particle.e()))
        inputs[-1].set_user_index(index)
    clusters = fastjet.ClusterSequence(inputs, definition)
    for jet in fastjet.sorted_by_pt(clusters.inclusive_jets(cuts.pt_min)):
        if not (cuts.pt_min < jet.perp() < cuts.pt_max and abs(jet.eta()) < cuts.eta_max):
            continue
        truth = NO_TRUTH
        if process.matched:
            truth = match(np.array([jet.e(), jet.px(), jet.py(), jet.pz()]), truths, cuts.radius)
        if truth is not None:
            inside = [visible[c.user_index()] for c in jet.constituents()]
            fourmomenta = np.array([fourmomentum(p) for p in inside])
            return Jet(*hardest_constituents(fourmomenta, np.array([p.id() for p in inside]), nobj_max), truth)
    return None


def generate(name, cuts, mpi, nobj_max, seed, count):
    """A list of `count` Jets of PROCESSES[name]. Depends on the arguments only; a larger count continues the list."""
    _, fastjet = import_generator()
    process = PROCESSES[name]
    pythia = start_pythia(process, cuts, mpi, seed)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, cuts.radius)
    jets, barren = [], 0
    while len(jets) < count:
        jet = find_jet(pythia, definition, process, cuts, nobj_max) if pythia.next() else None
        barren = 0 if jet is not None else barren + 1
        if jet is not None:
            jets.append(jet)
        elif barren >= MAX_BARREN:
            raise GenerationError(f"process {name}: no jet passes the cuts in {MAX_BARREN} events ({cuts})")
    return jets
