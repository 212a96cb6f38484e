"""Packed rows: where each event begins, and the padded tables that the point kernels take.

Lengths (B,) int64 stay on the CPU, as in the batches: index arithmetic then never waits for a GPU.
"""

import torch
from torch import Tensor


def offsets(lengths: Tensor) -> Tensor:
    """(B + 1,) int64: where each event begins, then the number of rows."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def event_of_row(lengths: Tensor) -> Tensor:
    """(rows,) int64: the event that each row belongs to."""
    return torch.repeat_interleave(lengths)


def rank_in_event(lengths: Tensor) -> Tensor:
    """(rows,) int64: 0, 1, 2, ... anew in every event."""
    return torch.arange(int(lengths.sum())) - offsets(lengths)[:-1].repeat_interleave(lengths)


def slots(lengths: Tensor, width: int) -> Tensor:
    """(rows,) int64: each row's place in a padded (B, width) table, flattened."""
    return event_of_row(lengths) * width + rank_in_event(lengths)


def pad(x: Tensor, lengths: Tensor, width: int | None = None) -> Tensor:
    """Packed x (rows, ...) as (B, width, ...), zero where there is no row; width: the longest event if None."""
    if width is None:
        width = int(lengths.max()) if len(lengths) else 0
    table = x.new_zeros(len(lengths) * width, *x.shape[1:])
    return table.index_copy(0, slots(lengths, width).to(x.device), x).view(len(lengths), width, *x.shape[1:])


def unpad(table: Tensor, lengths: Tensor) -> Tensor:
    """The rows of a padded (B, width, ...) table, one event after another: undoes `pad`."""
    return table.flatten(0, 1).index_select(0, slots(lengths, table.shape[1]).to(table.device))


def check_packed(x: Tensor, lengths: Tensor, columns: int) -> None:
    """ValueError unless x is (P, columns or more) and lengths (B,) int64 on the CPU counts its rows."""
    if x.dim() != 2 or x.shape[1] < columns or not x.is_floating_point():
        raise ValueError(f"points: expected (P, {columns} or more) floating point, got {tuple(x.shape)} {x.dtype}")
    if lengths.dim() != 1 or lengths.dtype != torch.int64 or lengths.device.type != "cpu":
        got = f"{tuple(lengths.shape)} {lengths.dtype} on {lengths.device}"
        raise ValueError(f"lengths: expected (B,) int64 on the CPU, got {got}")
    if int(lengths.sum()) != len(x) or (lengths < 0).any():
        raise ValueError(f"lengths: expected numbers that add up to {len(x)} points, got a sum of {int(lengths.sum())}")
