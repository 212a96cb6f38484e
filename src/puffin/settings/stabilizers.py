"""Subgroups of the Lorentz group that a PELICAN network can keep as its symmetry.  Source: arXiv 2307.16506, sec. 2.

Vectors are E, px, py, pz.
"""

T, X, Y, Z = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)
BEAMS = ((1.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, -1.0))
LIGHT_LIKE = ((1.0, 0.0, 0.0, 1.0), (1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, -1.0))

# stabilizer subgroup -> the fixed vectors whose stabilizer it is
SPURIONS = {
    "so13": (),
    "so3": (T,),
    "so12": (Z,),
    "se2": ((1.0, 0.0, 0.0, -1.0),),
    "so2": (T, Z),
    "so2_0": BEAMS,
    "R": (X, Y),
    "1": (T, X, Y, Z),
    "11": (T, X, Y, Z),
    "1_0": LIGHT_LIKE,
    "11_0": LIGHT_LIKE,
}
STABILIZERS = tuple(SPURIONS)
METHODS = ("spurions", "input")
