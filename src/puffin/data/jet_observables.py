"""Hand-made observables of jets, as analyses used them before neural networks; computed by FastJet and NumPy.

N-subjettiness: arXiv:1011.2268, with winner-take-all axes of exclusive kT jets (arXiv:1401.2158). Energy correlations
C2 and D2: arXiv:1305.0007, arXiv:1409.6298. Soft drop: arXiv:1402.2657. FastJet: arXiv:1111.6097.
"""

import logging
import os
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from puffin.data.jet_blocks import JetFile, JetSelection
from puffin.data.momentum_columns import CARTESIAN
from puffin.data.parallel import ordered_map
from puffin.errors import InputError
from puffin.files import whole_file

log = logging.getLogger("puffin")

RADIUS = 0.8  # scale of angles in N-subjettiness and of soft drop; a constant factor for trees
WIDE = 10 * RADIUS  # radius of clusterings: larger than any jet, so that all particles are clustered
SUBJETS = (1, 2, 3, 4)
BETAS = (1, 2)
HARDEST = 100  # particles that enter the energy correlations, whose time grows with the third power
ROWS = 500  # jets that are computed at once
TINY = 1e-12
# in this order they are inputs of trained networks
NAMES = (
    *("pt", "mass", "mass_over_pt", "multiplicity", "pt_dispersion", "hardest_fraction", "particles_of_90_percent"),
    *("les_houches", "width", "thrust"),
    *(f"tau{n}_{beta}" for n in SUBJETS for beta in BETAS),
    *(f"tau{n}{n - 1}_{beta}" for n in SUBJETS[1:] for beta in BETAS),
    *("kt_splitting", "mass_of_half_0", "mass_of_half_1"),
    *(f"{name}_of_third_{k}" for k in range(3) for name in ("mass", "fraction")),
    *("mass_of_pair_0", "mass_of_pair_1", "mass_of_pair_2", "smallest_pair_mass"),
    *(f"{name}_{beta}" for beta in BETAS for name in ("e2", "C2", "D2")),
    *("groomed_mass", "groomed_fraction", "groomed_asymmetry", "groomed_angle"),
)


def import_fastjet():
    """Import fastjet and awkward; InputError that says how to install them if they are missing."""
    try:
        import awkward
        import fastjet
    except ImportError as error:
        command = "pip install --no-build-isolation -e '.[generate]'"
        raise InputError(f"the observables need fastjet ({error}). Install it: {command}") from error
    return fastjet, awkward


def observables(particles: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute the observables NAMES of jets, (J, F) float32; 0 for jets without particles.

    particles (P, 4): E, px, py, pz [GeV] of all jets one after the other; counts (J,). InputError without FastJet."""
    import_fastjet()
    values = np.zeros((len(counts), len(NAMES)), np.float32)
    filled = np.flatnonzero(counts)
    for start in range(0, len(filled), ROWS):
        some = filled[start : start + ROWS]
        first, last = counts[: some[0]].sum(), counts[: some[-1] + 1].sum()
        jets = _padded(particles[first:last].astype(np.float64), counts[some])
        with _quietly():
            found = _shapes(jets, counts[some]) | _subjets(jets) | _correlations(jets) | _groomed(jets)
        values[some] = np.nan_to_num(np.stack([found[name] for name in NAMES], 1))
    return values


@contextmanager
def _quietly():
    """Compute in one thread, without the warning of other algorithms than kT."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dcut and exclusive jets")
        yield


def subjettiness(particles: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute N-subjettiness and its ratios, {"tau2_1": (J,), ...}, for N and beta; see `observables`."""
    jets = _padded(particles, counts)
    with _quietly():
        return _subjettiness(jets, _awkward(jets))


def _padded(particles: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the jets (J, M, 4) by descending pT, zero-padded.

    Jets with fewer particles than subjets get copies of a particle with negligible momentum."""
    jets = np.zeros((len(counts), max(int(counts.max()), max(SUBJETS)), 4))
    inside = np.arange(jets.shape[1]) < counts[:, None]
    jets[inside] = particles
    order = np.argsort(-np.hypot(jets[..., 1], jets[..., 2]), axis=1, kind="stable")
    jets = np.take_along_axis(jets, order[..., None], 1)
    few = jets[:, : max(SUBJETS)]
    few[few[..., 0] == 0] = TINY * np.repeat(jets[:, 0], (few[..., 0] == 0).sum(1), axis=0)
    return jets


def _mass(p: np.ndarray) -> np.ndarray:
    """Return the masses (...,) of four-momenta (..., 4)."""
    return np.sqrt(np.maximum(p[..., 0] ** 2 - (p[..., 1:] ** 2).sum(-1), 0))


def _directions(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pT, pseudorapidity and azimuth (...,) of four-momenta (..., 4)."""
    pt = np.hypot(p[..., 1], p[..., 2])
    return pt, np.arcsinh(p[..., 3] / np.maximum(pt, TINY**2)), np.arctan2(p[..., 2], p[..., 1])


def _distances(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the distances (J, N, M) in pseudorapidity and azimuth of p (J, N, 4) and q (J, M, 4)."""
    (_, eta, phi), (_, eta2, phi2) = _directions(p[:, :, None]), _directions(q[:, None])
    return np.hypot(eta - eta2, np.remainder(phi - phi2 + np.pi, 2 * np.pi) - np.pi)


def _shapes(jets: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what needs no clustering: momentum, mass, multiplicity, dispersion of pT and angularities."""
    total = jets.sum(1)
    pt, total_pt = _directions(jets)[0], _directions(total)[0]
    z = pt / pt.sum(1, keepdims=True)
    angle = _distances(jets, total[:, None])[..., 0] / RADIUS
    return {
        "pt": total_pt,
        "mass": _mass(total),
        "mass_over_pt": _mass(total) / total_pt,
        "multiplicity": counts,
        "pt_dispersion": np.sqrt((z**2).sum(1)),
        "hardest_fraction": z[:, 0],
        "particles_of_90_percent": (z.cumsum(1) < 0.9).sum(1) + 1,
        "les_houches": (z * angle**0.5).sum(1),
        "width": (z * angle).sum(1),
        "thrust": (z * angle**2).sum(1),
    }


def _awkward(jets: np.ndarray):
    """Return the jets (J, M, 4) as a ragged array that FastJet reads."""
    _, awkward = import_fastjet()
    real = jets[..., 0] > 0
    columns = {
        name: awkward.unflatten(jets[..., k][real], real.sum(1)) for k, name in enumerate(("E", "px", "py", "pz"))
    }
    return awkward.zip(columns, with_name="Momentum4D")


def _momenta(clusters) -> np.ndarray:
    """Return FastJet's jets as four-momenta (J, N, 4)."""
    _, awkward = import_fastjet()
    return np.stack([awkward.to_numpy(clusters[name]) for name in ("E", "px", "py", "pz")], -1)


def _subjettiness(jets: np.ndarray, ragged) -> dict[str, np.ndarray]:
    """Compute N-subjettiness and its ratios; ragged: the jets for FastJet."""
    fastjet, _ = import_fastjet()
    pt, values = _directions(jets)[0], {}
    axes = fastjet.ClusterSequence(ragged, fastjet.JetDefinition(fastjet.kt_algorithm, WIDE, fastjet.WTA_pt_scheme))
    for n in SUBJETS:
        nearest = _distances(jets, _momenta(axes.exclusive_jets(n_jets=n))).min(2) / RADIUS
        for beta in BETAS:
            values[f"tau{n}_{beta}"] = (pt * nearest**beta).sum(1) / pt.sum(1)
    for n in SUBJETS[1:]:
        for beta in BETAS:
            values[f"tau{n}{n - 1}_{beta}"] = values[f"tau{n}_{beta}"] / np.maximum(values[f"tau{n - 1}_{beta}"], TINY)
    return values


def _subjets(jets: np.ndarray) -> dict[str, np.ndarray]:
    """Compute N-subjettiness, its ratios, and masses, distances and momentum fractions of exclusive kT subjets."""
    fastjet, _ = import_fastjet()
    pt, ragged = _directions(jets)[0], _awkward(jets)
    values = _subjettiness(jets, ragged)
    clusters = fastjet.ClusterSequence(ragged, fastjet.JetDefinition(fastjet.kt_algorithm, WIDE))
    two, three = (_by_pt(_momenta(clusters.exclusive_jets(n_jets=n))) for n in (2, 3))
    values["kt_splitting"] = np.log(_directions(two)[0][:, 1] * _distances(two, two)[:, 0, 1] + TINY)
    for k in range(2):
        values[f"mass_of_half_{k}"] = _mass(two[:, k])
    for k in range(3):
        values[f"mass_of_third_{k}"] = _mass(three[:, k])
        values[f"fraction_of_third_{k}"] = _directions(three)[0][:, k] / pt.sum(1)
    pairs = np.stack([_mass(three[:, i] + three[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    return values | {f"mass_of_pair_{k}": pairs[k] for k in range(3)} | {"smallest_pair_mass": pairs.min(0)}


def _by_pt(momenta: np.ndarray) -> np.ndarray:
    """Sort four-momenta (J, N, 4) by descending pT."""
    return np.take_along_axis(momenta, np.argsort(-_directions(momenta)[0], axis=1)[..., None], 1)


def _correlations(jets: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the energy correlations e2, e3 and their ratios C2 = e3 / e2^2 and D2 = e3 / e2^3."""
    jets = jets[:, :HARDEST]
    values: dict[str, np.ndarray] = {}
    pt = _directions(jets)[0]
    z, distances = pt / pt.sum(1, keepdims=True), _distances(jets, jets)
    for beta in BETAS:
        weighted = distances**beta * np.sqrt(z[:, :, None] * z[:, None])
        e2 = np.einsum("ji,jik,jk->j", z, distances**beta, z) / 2
        e3 = (weighted @ weighted * weighted).sum((1, 2)) / 6
        values |= {f"e2_{beta}": e2, f"C2_{beta}": e3 / np.maximum(e2, TINY) ** 2}
        values |= {f"D2_{beta}": e3 / np.maximum(e2, TINY) ** 3}
    return values


def _groomed(jets: np.ndarray) -> dict[str, np.ndarray]:
    """Compute mass, momentum, asymmetry and angle after soft drop with beta = 0, z_cut = 0.1."""
    fastjet, awkward = import_fastjet()
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, WIDE)
    groomed = fastjet.ClusterSequence(_awkward(jets), definition).exclusive_jets_softdrop_grooming(
        njets=1, beta=0.0, symmetry_cut=0.1, R0=RADIUS
    )
    mass, pt, asymmetry, angle = (
        awkward.to_numpy(groomed[f"{name}softdrop"]).reshape(len(jets)) for name in ("m", "pt", "symmetry", "deltaR")
    )
    return {
        "groomed_mass": mass,
        "groomed_fraction": pt / _directions(jets.sum(1))[0],
        "groomed_asymmetry": np.maximum(asymmetry, 0),
        "groomed_angle": np.maximum(angle, 0),
    }


def observables_of_file(path: Path, jobs: int = 1, columns: tuple[str, ...] = CARTESIAN) -> np.ndarray:
    """Return the observables NAMES of all jets of a file, (N, F) float32.

    They are stored beside the file, in .NAME.observables.npz, and read from there if file and code have not changed.
    jobs: number of processes; columns: what the columns of the momenta hold."""
    cache, stamp = path.with_name(f".{path.name}.observables.npz"), _stamp(path, columns)
    if cache.is_file():
        with np.load(cache) as stored:
            if stored["stamp"].tolist() == stamp:
                return stored["values"]
    import_fastjet()
    selection = JetSelection(target=None, columns=columns)
    with JetFile(path) as file:
        size = file.check(selection)
    rows = [slice(k, min(k + ROWS, size)) for k in range(0, size, ROWS)]
    found = ordered_map(partial(_of_rows, path, selection), rows, jobs)
    bar = tqdm(found, f"observables of {path.name}", len(rows), unit_scale=ROWS, unit="jet", disable=None, leave=False)
    values = np.concatenate(list(bar))
    try:
        with whole_file(cache) as temporary, open(temporary, "wb") as out:
            np.savez(out, values=values, stamp=np.array(stamp))
    except OSError as error:
        log.warning(f"{cache}: the observables are not stored ({error.strerror}); they are computed again next time")
    return values


def _of_rows(path: Path, selection: JetSelection, rows: slice) -> np.ndarray:
    """Compute the observables of some rows of a file."""
    with JetFile(path) as file:
        block = file.read(rows, selection)
    return observables(block.particles[:, :4], block.counts)


def _stamp(path: Path, columns: tuple[str, ...]) -> list[int]:
    """Return numbers that change when the file, the meaning of its columns or this module does."""
    file, code = os.stat(path), Path(__file__).read_bytes()
    return [file.st_size, file.st_mtime_ns, crc32(",".join(columns).encode()), crc32(code)]
