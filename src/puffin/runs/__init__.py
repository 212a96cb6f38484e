"""A run from its flags to its output files."""
