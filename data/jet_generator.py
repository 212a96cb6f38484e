"""Generate jets of a process: Pythia 8 events, anti-kT jets, and the particles of the jets.

The particles are those that are stable in Pythia (pi, K+-, K0L, n and mu are stable, K0S and Lambda decay), without
neutrinos. No detector is simulated. Four-momenta are (E, px, py, pz) in GeV.
"""

import importlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from jet_features import particle_features
from jet_processes import NO_TRUTH, PROCESSES, Process, Truth

ECM = 14000.0  # GeV, proton-proton
MAX_EMPTY_EVENTS = 20000  # maximum number of consecutive events without a jet
PT_BINS = 10  # of a flat spectrum
EARLY_SCALE = 20.0  # GeV, pT of the shower at which the early cut looks at an event
EARLY_ETA = 0.5  # the early cut keeps |eta| < eta_max + EARLY_ETA
DECAYS = 5  # Pythia's number for the showers of resonance decays
BEYOND = 25.0  # |eta| of no particle


class GenerationError(RuntimeError):
    """The generator is not installed, refuses its settings, or finds no jet that passes the cuts."""


class Jet(NamedTuple):
    """A jet: fourmomenta (n, 4) float32 and pdgid (n,) int32 of its particles, by descending pT, and its truth.

    features: {key: (n,) float32} of the particles, {} if they are not requested."""

    fourmomenta: np.ndarray
    pdgid: np.ndarray
    truth: Truth
    features: dict[str, np.ndarray] = {}


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
class Recipe:
    """How to make jets; all but the process, the seed and the number of jets.

    mpi: simulate multi-parton interactions; nobj_max: maximum number of particles per jet; fast: drop events early and
    use Pythia's copy of FastJet; flat_pt: as many jets in each of PT_BINS bins of pT; contained: the decay products of
    a resonance must be within the radius of the jet; features: also make the features of particles."""

    cuts: Cuts
    mpi: bool = True
    nobj_max: int = 200
    fast: bool = False
    flat_pt: bool = False
    contained: bool = False
    features: bool = False


def import_generator(name):
    """Import pythia8mc or fastjet; GenerationError that says how to install it if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise GenerationError(
            f"generating jets needs pythia8mc and fastjet ({error}). Install them: "
            f"pip install --no-build-isolation -e '.[generate]'"
        ) from error


def start_pythia(process: Process, recipe: Recipe, seed: int):
    """Start Pythia for a process, seed in [1, 900000000]; return it and its early cut, which must live as long."""
    cuts = recipe.cuts
    pythia = import_generator("pythia8mc").Pythia("", False)  # no banner
    low, high = process.pthat[0] * cuts.pt_min, process.pthat[1] * cuts.pt_max
    settings = [
        "Print:quiet = on",
        f"Beams:eCM = {ECM}",
        "Random:setSeed = on",
        f"Random:seed = {seed}",
        f"PhaseSpace:pTHatMin = {low}",
        f"PhaseSpace:pTHatMax = {high}",
        f"PartonLevel:MPI = {'on' if recipe.mpi else 'off'}",
        *process.settings,
    ]
    if recipe.fast:
        settings.append("Check:abortIfVeto = on")
    if recipe.flat_pt:
        settings += ["PhaseSpace:bias2Selection = on", f"PhaseSpace:bias2SelectionPow = {process.slope}"]
    for setting in settings:
        if not pythia.readString(setting):
            raise GenerationError(f"Pythia refuses the setting {setting!r}")
    early_cut = make_early_cut(process, cuts) if recipe.fast else None
    if early_cut is not None:
        pythia.setUserHooksPtr(early_cut)
    if not pythia.init():
        raise GenerationError(
            f"Pythia does not start with {low:g} < pTHat < {high:g} GeV. Change --pt-min or --pt-max."
        )
    return pythia, early_cut


def make_early_cut(process: Process, cuts: Cuts):
    """Make the hook that drops events before the soft part of the shower, which takes nearly all of the time.

    At EARLY_SCALE it clusters the partons, among them the resonances, which have not decayed. It drops the event unless
    an anti-kT jet lies in the window of the process and within eta_max + EARLY_ETA; of a process with a resonance, a
    jet that contains one. docs/generate_jets.md states how many jets are lost."""
    pythia8mc = import_generator("pythia8mc")
    low, high = process.window[0] * cuts.pt_min, process.window[1] * cuts.pt_max
    everything, visible = 1, 2  # Pythia's numbers; H and Z are not visible
    clusters = pythia8mc.SlowJet(-1, cuts.radius, low, BEYOND, visible if process.resonance is None else everything, 2)

    def is_candidate(event, k):
        jet = clusters.p(k)
        if jet.pT() > high or abs(jet.eta()) > cuts.eta_max + EARLY_ETA:
            return False
        return process.resonance is None or any(event[i].idAbs() == process.resonance for i in clusters.constituents(k))

    class EarlyCut(pythia8mc.UserHooks):
        def canVetoProcessLevel(self):
            return True

        def doVetoProcessLevel(self, record):
            return not process.accept(record)

        def canVetoPT(self):
            return True

        def scaleVetoPT(self):
            return EARLY_SCALE

        def doVetoPT(self, position, event):
            if position == DECAYS:
                return False
            clusters.analyze(event)
            return not any(is_candidate(event, k) for k in range(clusters.sizeJet()))

    return EarlyCut()


def delta_r(p, q):
    """Compute the distance in (pseudorapidity, azimuth) of four-momenta (..., 4)."""
    (eta, phi), (eta2, phi2) = (
        (np.arcsinh(v[..., 3] / np.hypot(v[..., 1], v[..., 2])), np.arctan2(v[..., 2], v[..., 1]))
        for v in (np.asarray(p), np.asarray(q))
    )
    return np.hypot(eta - eta2, np.remainder(phi - phi2 + np.pi, 2 * np.pi) - np.pi)


def match(axis, truths, radius):
    """Return the Truth whose origin is nearest to the jet axis (4,), or None if none is within the radius."""
    distances = [delta_r(axis, truth.origin) for truth in truths]
    if not distances or min(distances) >= radius:
        return None
    return truths[int(np.argmin(distances))]


class SlowFinder:
    """Anti-kT jets of an event by FastJet's Python module."""

    def __init__(self, cuts: Cuts):
        self.fastjet, self.cuts = import_generator("fastjet"), cuts
        self.definition = self.fastjet.JetDefinition(self.fastjet.antikt_algorithm, cuts.radius)

    def __call__(self, event) -> Iterator:
        """Yield the four-momentum (4,) and the particles of each jet with pT > pt_min, by descending pT."""
        visible = [p for p in event if p.isFinal() and p.isVisible()]
        inputs = []
        for index, particle in enumerate(visible):
            inputs.append(self.fastjet.PseudoJet(particle.px(), particle.py(), particle.pz(), particle.e()))
            inputs[-1].set_user_index(index)
        clusters = self.fastjet.ClusterSequence(inputs, self.definition)
        for jet in self.fastjet.sorted_by_pt(clusters.inclusive_jets(self.cuts.pt_min)):
            axis = np.array([jet.e(), jet.px(), jet.py(), jet.pz()])
            yield axis, lambda jet=jet: [visible[c.user_index()] for c in jet.constituents()]


class FastFinder:
    """Anti-kT jets of an event by the copy of FastJet in Pythia, which reads the event without Python's help."""

    def __init__(self, cuts: Cuts):
        self.clusters = import_generator("pythia8mc").SlowJet(-1, cuts.radius, cuts.pt_min, BEYOND, 2, 2)

    def __call__(self, event) -> Iterator:
        """Yield the four-momentum (4,) and the particles of each jet with pT > pt_min, by descending pT."""
        self.clusters.analyze(event)
        for k in range(self.clusters.sizeJet()):
            p = self.clusters.p(k)
            axis = np.array([p.e(), p.px(), p.py(), p.pz()])
            yield axis, lambda k=k: [event[i] for i in self.clusters.constituents(k)]


def by_descending_pt(fourmomenta):
    """Return the order of n particles (n, 4) by descending pT; particles of equal pT keep their order."""
    return np.argsort(-np.hypot(fourmomenta[:, 1], fourmomenta[:, 2]), kind="stable")


def hardest_constituents(fourmomenta, pdgid, nobj_max):
    """Select at most nobj_max constituents (n, 4), (n,) by descending pT, as float32 and int32; E is not recomputed."""
    order = by_descending_pt(fourmomenta)[:nobj_max]
    return fourmomenta[order].astype(np.float32), pdgid[order].astype(np.int32)


def make_jet(particles, truth: Truth, recipe: Recipe, rng) -> Jet:
    """Make a Jet from Pythia's particles; rng smears the tracks."""
    fourmomenta = np.array([(p.e(), p.px(), p.py(), p.pz()) for p in particles])
    pdgid, features = np.array([p.id() for p in particles]), {}
    if recipe.features:
        order = by_descending_pt(fourmomenta)[: recipe.nobj_max]
        rows = np.array([(p.charge(), p.xProd(), p.yProd(), p.zProd()) for p in particles])[order]
        features = particle_features(fourmomenta[order, 1:], pdgid[order], rows[:, 0], rows[:, 1:], rng)
    return Jet(*hardest_constituents(fourmomenta, pdgid, recipe.nobj_max), truth, features)


def find_jet(pythia, finder, process: Process, recipe: Recipe, rng) -> tuple[float, Jet] | None:
    """Return pT and Jet of the current event, or None; at most one per event, so that jets are independent."""
    cuts, truths = recipe.cuts, None
    if not process.accept(pythia.process):
        return None
    for axis, particles in finder(pythia.event):
        pt = np.hypot(axis[1], axis[2])
        if not (cuts.pt_min < pt < cuts.pt_max and abs(np.arcsinh(axis[3] / pt)) < cuts.eta_max):
            continue
        truth = NO_TRUTH
        if process.matched:
            truths = process.find_truth(pythia) if truths is None else truths
            truth = match(axis, truths, cuts.radius)
        if truth is None or (recipe.contained and (delta_r(axis, truth.decay) >= cuts.radius).any()):
            continue
        return pt, make_jet(particles(), truth, recipe, rng)
    return None


def find_jets(name: str, recipe: Recipe, seed: int) -> Iterator[tuple[float, Jet]]:
    """Yield pT and Jet of successive events of PROCESSES[name], without end.

    GenerationError if no jet passes the cuts."""
    process = PROCESSES[name]
    pythia, early_cut = start_pythia(process, recipe, seed)
    finder, rng = (FastFinder if recipe.fast else SlowFinder)(recipe.cuts), np.random.default_rng([seed, 1])
    empty_events = 0
    while empty_events < MAX_EMPTY_EVENTS:
        found = find_jet(pythia, finder, process, recipe, rng) if pythia.next() else None
        empty_events = 0 if found is not None else empty_events + 1
        if found is not None:
            yield found
    raise GenerationError(f"process {name}: no jet passes the cuts in {MAX_EMPTY_EVENTS} events ({recipe.cuts})")


def flattened(jets: Iterator[tuple[float, Jet]], cuts: Cuts, seed: int) -> Iterator[tuple[float, Jet]]:
    """Yield jets in groups of PT_BINS: one of each bin of pT, in random order. Jets of full bins wait."""
    bins, rng = [deque() for _ in range(PT_BINS)], np.random.default_rng([seed, 2])
    for pt, jet in jets:
        bins[min(int((pt - cuts.pt_min) / (cuts.pt_max - cuts.pt_min) * PT_BINS), PT_BINS - 1)].append((pt, jet))
        while all(bins):
            yield from [bins[k].popleft() for k in rng.permutation(PT_BINS)]


def generate(name: str, recipe: Recipe, seed: int, count: int) -> list[Jet]:
    """Generate a list of `count` jets of PROCESSES[name], for given arguments always the same.

    A larger count continues the list. GenerationError if no jet passes the cuts."""
    jets = find_jets(name, recipe, seed)
    if recipe.flat_pt:
        jets = flattened(jets, recipe.cuts, seed)
    return [jet for _, jet in islice(jets, count)]
