"""The physics of make_jets.py: hard processes, Pythia 8 events, FastJet jets, and their true origin.

To add a process, add an entry to PROCESSES. The particles are those that are stable in Pythia (pi, K+-, K0L, n and mu
are stable, K0S and Lambda decay), without neutrinos. No detector is simulated. Four-momenta are (E, px, py, pz) in
GeV.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ECM = 14000.0  # GeV, proton-proton
MAX_EMPTY_EVENTS = 20000  # maximum number of consecutive events without a jet
CHARM, BOTTOM, TOP, Z, W = 4, 5, 6, 23, 24


class GenerationError(RuntimeError):
    """The generator is not installed, refuses its settings, or finds no jet that passes the cuts."""


class Truth(NamedTuple):
    """Four-momenta (4,) of the particle that initiated the jet, and of the W and b quark that a top decays to.

    origin: a top, W or Z before it decays, or the quark or gluon of the hard process; w: the W before it decays, of a
    top or the origin itself; b: the b quark of a top. w and b are 0 if there is no such particle."""

    origin: np.ndarray
    w: np.ndarray = np.zeros(4)
    b: np.ndarray = np.zeros(4)


NO_TRUTH = Truth(np.zeros(4))


class Jet(NamedTuple):
    """A jet: fourmomenta (n, 4) float32 and pdgid (n,) int32 of its particles, by descending pT, and its truth."""

    fourmomenta: np.ndarray
    pdgid: np.ndarray
    truth: Truth


@dataclass(frozen=True)
class Cuts:
    """Cuts on anti-kT jets: pt_min < pT < pt_max [GeV], |eta| < eta_max; radius of the jets and of the matching."""

    pt_min: float
    pt_max: float
    eta_max: float
    radius: float

    def __str__(self):
        return f"anti-kT R = {self.radius:g}, {self.pt_min:g} < pT < {self.pt_max:g} GeV, |eta| < {self.eta_max:g}"


@dataclass(frozen=True)
class Process:
    """A hard process.

    settings: of Pythia; pthat: its range of pTHat, in units of pt_min and pt_max; find_truth(pythia): returns a Truth
    for each particle that a jet may be matched to, or None if the event must not be used; matched: whether a jet must
    match one of them, otherwise the hardest jet is taken.
    """

    description: str
    is_signal: bool
    settings: tuple[str, ...]
    pthat: tuple[float, float]
    find_truth: Callable
    matched: bool


def fourmomentum(particle):
    """Return the four-momentum (4,) float64 of a Pythia particle."""
    return np.array([particle.e(), particle.px(), particle.py(), particle.pz()])


def find_tops(pythia):
    """Return a Truth for each top: the copy that decays, its W (the copy that decays), and its b quark.

    The b is taken before it radiates and the W after the recoil, so W + b equals the top up to this recoil.
    """
    event, tops = pythia.event, []
    for particle in event:
        if particle.idAbs() != TOP:
            continue
        daughters = [event[i] for i in particle.daughterList()]
        if sorted(d.idAbs() for d in daughters) != [BOTTOM, W]:
            continue  # not the last copy
        b, w = sorted(daughters, key=lambda d: d.idAbs())
        tops.append(Truth(fourmomentum(particle), fourmomentum(event[w.iBotCopyId()]), fourmomentum(b)))
    return tops


def decaying(pythia, code):
    """Return the four-momenta (4,) of the W or Z bosons (by PDG code) of the event, each of the copy that decays."""
    return [fourmomentum(p) for p in pythia.event if p.idAbs() == code and pythia.event[p.daughter1()].idAbs() != code]


def find_w(pythia):
    """Return a Truth for each W."""
    return [Truth(w, w) for w in decaying(pythia, W)]


def find_z(pythia):
    """Return a Truth for each Z."""
    return [Truth(z) for z in decaying(pythia, Z)]


def find_parton(pythia):
    """Return a Truth for the quark or gluon that is produced with a Z, or None if it is a charm or bottom quark."""
    partons = [pythia.process[i] for i in (5, 6) if pythia.process[i].idAbs() != Z]
    return None if any(p.idAbs() in (CHARM, BOTTOM) for p in partons) else [Truth(fourmomentum(p)) for p in partons]


def light_hard_process(pythia):
    """Return [] if all partons of the 2 -> 2 process are light quarks or gluons, None if one is charm or bottom.

    Pythia's settings exclude heavy quark production, but not heavy quarks of the proton in qg -> qg and qq -> qq. Heavy
    quarks from gluon splittings in the shower belong to light jets and are allowed.
    """
    partons = (pythia.process[i].idAbs() for i in (3, 4, 5, 6))
    return None if any(p in (CHARM, BOTTOM) for p in partons) else []


PURE_Z = "WeakZ0:gmZmode = 2"  # no photon
INVISIBLE_Z = (PURE_Z, "23:onMode = off", "23:onIfAny = 12 14 16")

# Why pTHat starts at 0.7 pt_min: at the default cuts, one event in five or six yields a jet, but only one in fifteen if
# pTHat starts at 0.55 pt_min. About 10% of the QCD jets and 30% of the tops have a pTHat below 0.7 pt_min, as the hard
# pair recoils against initial-state radiation, and less than 0.1% have one above 2 pt_max. The pT spectrum between the
# cuts does not depend on this limit: in each fifth of the range it agrees within 2% for 0.55 and 0.73 pt_min.
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
    """Import the modules (pythia8mc, fastjet); GenerationError that says how to install them if they are missing."""
    try:
        import fastjet
        import pythia8mc
    except ImportError as error:
        raise GenerationError(
            f"generating jets needs pythia8mc and fastjet ({error}). Install them: "
            f"pip install --no-build-isolation -e '.[generate]'"
        ) from error
    return pythia8mc, fastjet


def start_pythia(process, cuts, mpi, seed):
    """Start Pythia for a process; mpi: whether to simulate multi-parton interactions; seed in [1, 900000000]."""
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
        raise GenerationError(
            f"Pythia does not start with {low:g} < pTHat < {high:g} GeV. Change --pt-min or --pt-max."
        )
    return pythia


def delta_r(p, q):
    """Compute the distance in (pseudorapidity, azimuth) of two four-momenta (4,)."""
    eta = [np.arcsinh(v[3] / np.hypot(v[1], v[2])) for v in (p, q)]
    phi = [np.arctan2(v[2], v[1]) for v in (p, q)]
    return float(np.hypot(eta[0] - eta[1], np.remainder(phi[0] - phi[1] + np.pi, 2 * np.pi) - np.pi))


def match(axis, truths, radius):
    """Return the Truth whose origin is nearest to the jet axis (4,), or None if none is within the radius."""
    distances = [delta_r(axis, truth.origin) for truth in truths]
    if not distances or min(distances) >= radius:
        return None
    return truths[int(np.argmin(distances))]


def hardest_constituents(fourmomenta, pdgid, nobj_max):
    """Select at most nobj_max constituents (n, 4), (n,) by descending pT, as float32 and int32; E is not recomputed."""
    order = np.argsort(-np.hypot(fourmomenta[:, 1], fourmomenta[:, 2]), kind="stable")[:nobj_max]
    return fourmomenta[order].astype(np.float32), pdgid[order].astype(np.int32)


def find_jet(pythia, definition, process, cuts, nobj_max):
    """Return the jet of the current event, or None; at most one per event, so that jets are independent."""
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
    """Generate a list of `count` jets of PROCESSES[name], for given arguments always the same.

    A larger count continues the list. GenerationError if no jet passes the cuts."""
    _, fastjet = import_generator()
    process = PROCESSES[name]
    pythia = start_pythia(process, cuts, mpi, seed)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, cuts.radius)
    jets, empty_events = [], 0
    while len(jets) < count:
        jet = find_jet(pythia, definition, process, cuts, nobj_max) if pythia.next() else None
        empty_events = 0 if jet is not None else empty_events + 1
        if jet is not None:
            jets.append(jet)
        elif empty_events >= MAX_EMPTY_EVENTS:
            raise GenerationError(f"process {name}: no jet passes the cuts in {MAX_EMPTY_EVENTS} events ({cuts})")
    return jets
