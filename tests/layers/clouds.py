"""Point clouds for the tests of layers and models."""

import torch
from torch import Tensor


def tracks(lengths: list[int], seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Packed random walks on the lattice of voxels: points (P, 4) prepared as data sets give them, lengths (B,)."""
    generator = torch.Generator().manual_seed(seed)
    counts, total = torch.tensor(lengths, dtype=torch.int64), sum(lengths)
    steps = torch.randn(total, 3, generator=generator, dtype=torch.float64)
    drift = torch.randn(len(lengths), 3, generator=generator, dtype=torch.float64).repeat_interleave(counts, 0)
    voxels = torch.cat([s.cumsum(0) for s in (steps * 0.8 + drift).split(lengths)]).round() if total else steps
    energy = torch.rand(total, 1, generator=generator, dtype=torch.float64) * 2 - 1
    return torch.cat([voxels * 0.0015035163260146505, energy], 1).to(dtype), counts


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Names of the parameters whose gradient is missing, zero or not finite."""
    return [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
