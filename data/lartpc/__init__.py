"""A small Monte Carlo simulation of particles in liquid argon, for data/make_lartpc.py.

Lengths are in cm, energies in MeV and times in ns.
"""
