"""Features of the particles of a jet, with the names and units of JetClass: charge, kind, impact parameters.

The impact parameters are those of straight tracks from the point where Pythia creates the particle, relative to the
collision at the origin, so a magnetic field is not simulated. They are smeared with Gaussian resolutions
    sigma(d0) = sqrt(D0[0]^2 + (D0[1] / (pT sin(theta)^(1/2)))^2),
    sigma(dz) = sqrt(DZ[0]^2 + (DZ[1] / (pT sin(theta)^(3/2)))^2)
of a constant and a multiple-scattering term (pT in GeV), the size of those of ATLAS and CMS. These sigma are stored as
d0err and dzerr. Neutral particles have no track and four zeros.
"""

import numpy as np

D0 = (0.015, 0.075)  # mm, mm GeV
DZ = (0.030, 0.100)
ELECTRON, MUON, PHOTON = 11, 13, 22


def resolution(terms, pt, scattering):
    """Return the resolution (n,) [mm] of particles with transverse momentum pt [GeV] and factor `scattering`, (n,)."""
    return np.hypot(terms[0], terms[1] / (pt * scattering))


def impact_parameters(momenta, vertices):
    """Return the signed impact parameters d0 and dz (n,) [mm] of straight tracks; momenta, vertices (n, 3)."""
    (px, py, pz), (x, y, z) = momenta.T, vertices.T
    pt = np.hypot(px, py)
    return (x * py - y * px) / pt, z - (x * px + y * py) / pt * pz / pt


def particle_features(momenta, pdgid, charge, vertices, rng):
    """Return {key: (n,) float32} of n particles.

    momenta (n, 3) [GeV]; pdgid, charge (n,); vertices (n, 3) [mm]: where they are created; rng: smears the tracks."""
    code, charged = np.abs(pdgid), charge != 0
    electron, muon, photon = (code == kind for kind in (ELECTRON, MUON, PHOTON))
    pt = np.hypot(momenta[:, 0], momenta[:, 1])
    sine = pt / np.linalg.norm(momenta, axis=1)
    errors = resolution(D0, pt, sine**0.5), resolution(DZ, pt, sine**1.5)
    d0, dz = (
        value + error * rng.standard_normal(len(pt))
        for value, error in zip(impact_parameters(momenta, vertices), errors, strict=True)
    )
    features = {
        "charge": charge,
        "isChargedHadron": charged & ~electron & ~muon,
        "isElectron": electron,
        "isMuon": muon,
        "isNeutralHadron": ~charged & ~photon,
        "isPhoton": photon,
        "d0val": d0 * charged,
        "d0err": errors[0] * charged,
        "dzval": dz * charged,
        "dzerr": errors[1] * charged,
    }
    return {key: values.astype(np.float32) for key, values in features.items()}
