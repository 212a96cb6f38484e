"""Packed rows: the first row of each event, and conversion to the padded tables that the point kernels take.

Lengths (B,) int64 stay on the CPU, as in the batches, so that index arithmetic never waits for a GPU.
"""

import torch
from torch import Tensor

_PAGEABLE = 1 << 16  # bytes; the driver may wait for the GPU before it copies more than this from ordinary memory


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device, without waiting for the work that the device still has to do.

    `Tensor.to` alone waits until a GPU has done all of it.
    """
    if device.type == "cuda" and x.device.type == "cpu" and x.nbytes > _PAGEABLE:
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def offsets(lengths: Tensor) -> Tensor:
    """Return the first row of each event, then the number of rows: (B + 1,) int64."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def event_of_row(lengths: Tensor) -> Tensor:
    """Return the event that each row belongs to: (rows,) int64."""
    return torch.repeat_interleave(lengths)


def rank_in_event(lengths: Tensor) -> Tensor:
    """Number the rows of each event 0, 1, 2, ...: (rows,) int64."""
    return torch.arange(int(lengths.sum())) - offsets(lengths)[:-1].repeat_interleave(lengths)


def random_order(lengths: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Permute the rows of each event at random: (rows,) int64; an event's rows stay in its place."""
    order = torch.rand(int(lengths.sum()), generator=generator).argsort()
    return order[event_of_row(lengths)[order].argsort(stable=True)]


def slots(lengths: Tensor, width: int) -> Tensor:
    """Return each row's position in a padded (B, width) table, flattened: (rows,) int64."""
    return event_of_row(lengths) * width + rank_in_event(lengths)


def pad(x: Tensor, lengths: Tensor, width: int | None = None) -> Tensor:
    """Pad x (rows, ...) with zeros to (B, width, ...); width None: that of the longest event."""
    if width is None:
        width = int(lengths.max()) if len(lengths) else 0
    table = x.new_zeros(len(lengths) * width, *x.shape[1:])
    return table.index_copy(0, to_device(slots(lengths, width), x.device), x).view(len(lengths), width, *x.shape[1:])


def unpad(table: Tensor, lengths: Tensor) -> Tensor:
    """Return the rows of a padded (B, width, ...) table, one event after another: undo `pad`."""
    return table.flatten(0, 1).index_select(0, to_device(slots(lengths, table.shape[1]), table.device))


def check_packed(x: Tensor, lengths: Tensor, columns: int) -> None:
    """Raise ValueError unless x is (P, columns or more) and lengths, (B,) int64 on the CPU, add up to its rows."""
    if x.dim() != 2 or x.shape[1] < columns or not x.is_floating_point():
        raise ValueError(f"points: expected (P, {columns} or more) floating point, got {tuple(x.shape)} {x.dtype}")
    if lengths.dim() != 1 or lengths.dtype != torch.int64 or lengths.device.type != "cpu":
        got = f"{tuple(lengths.shape)} {lengths.dtype} on {lengths.device}"
        raise ValueError(f"lengths: expected (B,) int64 on the CPU, got {got}")
    if int(lengths.sum()) != len(x) or (lengths < 0).any():
        raise ValueError(f"lengths: expected numbers that add up to {len(x)} points, got a sum of {int(lengths.sum())}")
