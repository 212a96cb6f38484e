"""Kernels of point clouds and pairs: a face and a plain-PyTorch oracle per op, compiled kernels behind them."""
