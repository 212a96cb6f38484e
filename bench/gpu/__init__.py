"""Checks and speeds on a GPU, for tools/check_gpu.py."""
