"""A small Monte Carlo of particles in liquid argon, for data/make_lartpc.py. Lengths in cm, energies in MeV, times in ns."""
