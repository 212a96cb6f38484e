"""Checkpoint files, ours and published ones."""
