"""A jet in pseudorapidity and azimuth, with a number for each particle and for its most important pairs."""

import numpy as np

_PAIRS = 30  # lines that are drawn
_AREA = 1500.0  # of the markers of all particles together [typographic points squared]


def draw_jet(axes, momenta: np.ndarray, values: np.ndarray, label: str, pairs=None, of_pairs=None) -> None:
    """Draw the particles of a jet around its axis: areas follow the pT, colours the values, white for 0.

    momenta (N, 4); values (N,); label: of the colour bar; pairs (U, 2): numbers of two particles, or None; of_pairs
    (U,): their values, of which the largest are drawn as lines, red for positive and blue for negative ones."""
    pt = np.hypot(momenta[:, 1], momenta[:, 2])
    eta, phi = np.arcsinh(momenta[:, 3] / np.maximum(pt, 1e-12)), np.arctan2(momenta[:, 2], momenta[:, 1])
    jet = momenta.sum(0)
    eta -= np.arcsinh(jet[3] / max(np.hypot(jet[1], jet[2]), 1e-12))
    phi = (phi - np.arctan2(jet[2], jet[1]) + np.pi) % (2 * np.pi) - np.pi
    if pairs is not None and len(momenta) > 1:
        two = pairs[:, 0] != pairs[:, 1]
        pairs, of_pairs = pairs[two], of_pairs[two]
        largest = np.argsort(-np.abs(of_pairs), kind="stable")[:_PAIRS]
        strengths = np.abs(of_pairs) / max(np.abs(of_pairs).max(), 1e-30)
        for (i, j), value, strength in zip(pairs[largest], of_pairs[largest], strengths[largest], strict=True):
            colour = "#b2182b" if value > 0 else "#2166ac"
            axes.plot(eta[[i, j]], phi[[i, j]], color=colour, alpha=0.6 * strength, lw=2 * strength, zorder=1)
    limit = max(np.abs(values).max(initial=0), 1e-12)
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "edgecolors": "black", "linewidths": 0.5, "zorder": 2}
    drawn = axes.scatter(eta, phi, s=8 + _AREA * pt / max(pt.sum(), 1e-12), c=values, **style)
    axes.figure.colorbar(drawn, ax=axes, label=label)
    axes.set(xlabel="pseudorapidity, from the jet axis", ylabel="azimuth, from the jet axis [rad]")
    axes.margins(0.12)
    axes.set_aspect("equal", adjustable="datalim")  # so that distances are those of the jet
    axes.grid(alpha=0.3)
