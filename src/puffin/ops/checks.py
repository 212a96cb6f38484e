"""Checks of the arguments of the point operations, and the distance that all of them use.

Clouds are padded batches: points (B, N, D >= 3) float32 or float64, lengths (B,) int64. Lengths outside 0..N raise an
error on the CPU; on a GPU, where reading them would wait for the device, they are clamped.

Squared distances are computed in the dtype of the points as dx*dx + dy*dy + dz*dz, left to right, without fused
multiply-add, so that the compiled kernels and the oracles agree on every index. Coordinates must be finite; otherwise
indices are unspecified (but never out of range). No op here changes its inputs.
"""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
CHUNK = 1 << 24  # maximum number of distances that an oracle holds at once


def check_points(name: str, points: Tensor) -> None:
    """Raise TypeError or ValueError unless points is a float32 or float64 tensor (B, N, D >= 3)."""
    if not isinstance(points, Tensor):
        raise TypeError(f"{name}: expected a tensor (B, N, D >= 3), got {type(points).__name__}")
    if points.dim() != 3 or points.shape[2] < 3:
        raise ValueError(f"{name}: expected shape (B, N, D >= 3), got {tuple(points.shape)}; one event needs [None]")
    if points.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32 or float64, got {points.dtype}; convert with .float()")


def check_alike(name: str, points: Tensor, other_name: str, other: Tensor) -> None:
    """Raise TypeError or ValueError unless both have the same dtype, device and number of events."""
    if points.dtype != other.dtype:
        raise TypeError(f"{name}: expected {other.dtype} like {other_name}, got {points.dtype}; convert with .to()")
    if points.device != other.device:
        raise ValueError(f"{name}: expected device {other.device} like {other_name}, got {points.device}; move it")
    if points.shape[0] != other.shape[0]:
        raise ValueError(f"{name}: expected {other.shape[0]} events like {other_name}, got {points.shape[0]}")


def per_event(name: str, value: Tensor | int | None, points: Tensor, default: int) -> Tensor:
    """Return a value per event, (B,) int64 on the device of the points, from a tensor, a number for all, or None.

    None means `default`. Raises TypeError or ValueError for another dtype, shape or device.
    """
    if value is None or isinstance(value, int):
        return torch.full((points.shape[0],), default if value is None else value, device=points.device)
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: expected an int64 tensor (B,), got {got}; convert with .long()")
    if value.shape != points.shape[:1]:
        raise ValueError(f"{name}: expected shape ({points.shape[0]},), one per event, got {tuple(value.shape)}")
    if value.device != points.device:
        raise ValueError(f"{name}: expected device {points.device} like the points, got {value.device}; move it")
    return value


def check_radius(radius: float) -> float:
    """Return the radius as a float; raise ValueError if it is negative or NaN."""
    if not radius >= 0:
        raise ValueError(f"radius: expected a number >= 0, got {radius}")
    return float(radius)


def check_k(k: int) -> int:
    """Return k; raise TypeError unless it is an integer, ValueError if it is negative."""
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"k: expected an int, got {type(k).__name__}")
    if k < 0:
        raise ValueError(f"k: expected k >= 0, got {k}")
    return k


def checked_lengths(lengths: Tensor, points: Tensor) -> list[int]:
    """Return the lengths as a list, for the oracles; raise RuntimeError for lengths out of range on the CPU."""
    size = points.shape[1]
    if lengths.device.type != "cpu":
        return lengths.clamp(0, size).tolist()
    values = lengths.tolist()
    for event, value in enumerate(values):
        if not 0 <= value <= size:
            raise RuntimeError(f"lengths: expected values in 0..{size}, got {value} for event {event}")
    return values


def squared_distances(queries: Tensor, points: Tensor, dims: int = 3) -> Tensor:
    """Return squared distances (M, N) of (M, D) and (N, D) over the first dims coordinates, rounded as kernels do."""
    total = None
    for c in range(dims):
        difference = queries[:, None, c] - points[None, :, c]
        total = difference * difference if total is None else total + difference * difference
    return total


def chunks(rows: int, columns: int) -> list[slice]:
    """Cut `rows` into slices so that each has about CHUNK pairs with `columns`."""
    step = max(1, CHUNK // max(1, columns))
    return [slice(i, min(rows, i + step)) for i in range(0, rows, step)]


def squared_radius(radius: float, dtype: torch.dtype) -> float:
    """Round the radius to dtype, then square it in dtype."""
    rounded = torch.tensor(radius, dtype=dtype, device="cpu")
    return (rounded * rounded).item()
