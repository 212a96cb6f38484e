"""Names that flags offer as choices, with a line of help for each.

This module imports neither PyTorch nor NumPy, so --help is quick.

To add a loss, a transform or a kind of jets, add its name here and its function to the module named beside the table.
That module checks when it is imported that it implements exactly these names.
"""

import re

# losses/momenta.py: between a predicted momentum p and the true one q, in GeV
MOMENTUM_LOSSES = {
    "inv": "|(p - q)^2|, the invariant square of the difference [GeV^2]",
    "m": "|m(p) - m(q)|, the difference of the masses [GeV]",
    "m2": "|p^2 - q^2|, the difference of the squared masses [GeV^2]",
    "3d": "length of the difference of the three-momenta [GeV]",
    "4d": "Euclidean length of the difference of the four-momenta [GeV]",
    "E": "|E(p) - E(q)|, the difference of the energies [GeV]",
    "psi": "angle between the three-momenta [rad]",
    "pT": "|pT(p) - pT(q)|, the difference of the transverse momenta [GeV]",
    "R": "distance in pseudorapidity and azimuth",
    "col": "area of the parallelogram of the four-momenta, 0 if they are parallel [GeV^2]",
    "col3": "|p| |q| - p.q of the three-momenta, 0 if they are parallel [GeV^2]",
}

# losses/clouds.py: between the class scores of points and their true classes
CLASS_LOSSES = {
    "focal": "cross entropy that counts confidently classified points less",
    "nll": "cross entropy",
    "dice": "1 - overlap of prediction and truth, averaged over the classes",
}

# data/scalars.py: which features of each particle a network reads besides the four-momentum
JET_DATASETS = {
    "jet": "none",
    "qg": "the particle type (14 PDG codes), as in EnergyFlow's quark and gluon jets",
    "jc": "charge, particle type and impact parameters, as in JetClass",
}

# data/scalars.py: how a feature is scaled
TRANSFORMS = {
    "raw": "as it is in the file",
    "tanh": "tanh(x)",
    "log": "sign(x) log(1 + |x|)",
    "clip": "limited to [-1, 1]",
}

# data/perturb.py: changes of the test jets that a tagger should survive, and what their strength is
PERTURBATIONS = {
    "scale": "shift of the energy scale",
    "energies": "relative smearing of energies",
    "directions": "smearing of directions [rad]",
    "loss": "loss of particles below a pT [GeV]",
    "splitting": "fraction of particles split collinearly",
    "addition": "added soft particles per jet",
}


class PerTarget(dict):
    """Values by the name of a metric, which also apply to that metric of each target: "dm" to "dm_0", "dm_1", ..."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(_unnumbered(str(name)))

    def __missing__(self, name: str):
        return dict(self)[_unnumbered(name)]


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


# Validation metrics that can choose the best epoch, or be optimized by a sweep: +1 if higher is better, -1 if lower is.
CLASSIFICATION_METRICS = {"loss": -1, "accuracy": 1, "AUC": 1, "BgRejectionAt0.3": 1, "BgRejectionAt0.5": 1}
REGRESSION_METRICS = PerTarget.fromkeys(
    ("loss", "dPsi", "dR", "dpT", "dm", "loss_m", "loss_3d", "pT_resolution", "m_resolution"), -1
)
MASKED_MODELLING_METRICS = {"loss": -1, "chamfer": -1, "probe_f1_mean": 1}  # the last only with a linear probe
SEGMENTATION_METRICS = {
    "loss": -1,
    "accuracy": 1,
    "precision_macro": 1,
    "recall_macro": 1,
    "f1_macro": 1,
    "iou_macro": 1,
}
