"""Local geometry of point clouds at several scales, and connected components.

points (P, 4) float32 or float64 hold the events of a batch one after another: x, y, z and energy; ptr (B + 1,) int64 on
the same device holds the first row of each event, from 0 to P. Squared distances are computed as in
src/puffin/ops/checks.py. All sums are float64 and relative to the query point, so large coordinates lose no digits.
Without a kernel, plain PyTorch compares all pairs. The kernels for a GPU do not check the values of ptr: reading them
would make the host wait.

Source: shares of eigenvalues as features of points, Weinmann et al., ISPRS J. 105 (2015) 286.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from puffin.ops import library
from puffin.ops.checks import (
    DTYPES,
    check_k,
    check_radius,
    chunks,
    squared_distances,
    squared_radius,
)
from puffin.ops.segments import check_ptr

SCHEMA = "local_geometry(Tensor points, Tensor ptr, int[] neighbours, float[] radii) -> Tensor"
COMPONENTS_SCHEMA = "components(Tensor points, Tensor ptr, float radius) -> Tensor"

NEIGHBOURS = (8, 24, 64, 160)
RADII = (3.0, 6.0, 12.0, 30.0)

COMPONENT_NAMES = ("component_points", "component_energy", "component_extent")


def geometry_names(neighbours: tuple[int, ...] = NEIGHBOURS, radii: tuple[float, ...] = RADII) -> tuple[str, ...]:
    """Return the names of the columns of `local_geometry`.

    >>> geometry_names((8,), (3.0,))[:5]
    ('k8_share1', 'k8_share2', 'k8_share3', 'k8_size', 'k8_centroid')
    """
    names = []
    for scale, k in enumerate(neighbours):
        columns = ["share1", "share2", "share3", "size", "centroid", "reach", "energy_mean", "energy_std"]
        names += [f"k{k}_{column}" for column in columns + ["alignment"] * (scale > 0)]
    for radius in radii:
        names += [f"r{radius:g}_points", f"r{radius:g}_energy"]
    return tuple(names)


def local_geometry(
    points: Tensor, ptr: Tensor, neighbours: tuple[int, ...] = NEIGHBOURS, radii: tuple[float, ...] = RADII
) -> Tensor:
    """Describe the surroundings of every point at several scales: (P, F), F columns named by `geometry_names`.

    neighbours: numbers k >= 1, ascending. The neighbourhood of a point holds all points of its event that are no
    farther than its k-th nearest, itself counted (all points if the event has fewer than k). All points at equal
    distance belong to it, so nothing depends on the order of the points. Columns for each k:

    - share1, share2, share3: eigenvalues of the covariance matrix (divided by the number of points) over their sum,
      descending; all 0 if the sum is 0. Absolute tolerance 1e-7.
    - size: square root of the sum of the eigenvalues.
    - centroid: distance from the point to the centroid of the neighbourhood.
    - reach: distance of the k-th nearest point, the root of what `knn` gives.
    - energy_mean, energy_std: mean and standard deviation (divided by the number of points) of the energy.
    - alignment, from the second k on: tr(A B) / (|A| |B|) of this covariance matrix A and that of the k before, B. It
      is the squared cosine of the angle between two lines, and 1 if both are alike; unlike the angle between principal
      axes it is continuous where two eigenvalues are equal. 0 if a matrix is 0.

    radii: for each radius two columns: the number of points at squared distance strictly below radius^2, as in
    `ball_count`, itself included, and the sum of their energies.

    Lengths are in the units of the points. Not differentiable. Raises TypeError or ValueError for other shapes or
    dtypes, numbers k that do not ascend, and negative radii; RuntimeError for a ptr that does not run from 0 to P (on a
    CPU).

    >>> points = torch.tensor([[0.0, 0, 0, 1], [1, 0, 0, 1], [2, 0, 0, 4]])  # on a line
    >>> local_geometry(points, torch.tensor([0, 3]), neighbours=(2,), radii=(1.5,))[1]
    tensor([1.0000, 0.0000, 0.0000, 0.8165, 0.0000, 1.0000, 2.0000, 1.4142, 3.0000,
            6.0000])
    """
    _check(points, ptr)
    for k, before in zip(neighbours, (0, *neighbours), strict=False):
        if check_k(k) <= before:
            raise ValueError(f"neighbours: expected numbers >= 1, ascending, got {tuple(neighbours)}")
    return torch.ops.puffin.local_geometry(
        points.detach(), ptr, list(neighbours), [check_radius(radius) for radius in radii]
    )


def components(points: Tensor, ptr: Tensor, radius: float) -> Tensor:
    """Find the connected components of each event: (P,) int64, the lowest row of each point's component.

    Two points are linked if their squared distance is at most radius^2, which is rounded to the dtype of the points.
    (So 1.8 links the 26 neighbours on a lattice; the root of 3 may round down.) Not differentiable. Raises as
    `local_geometry` does.

    >>> points = torch.tensor([[0.0, 0, 0, 1], [9, 0, 0, 1], [1, 1, 0, 1]])
    >>> components(points, torch.tensor([0, 3]), radius=1.8)
    tensor([0, 1, 0])
    """
    _check(points, ptr)
    return torch.ops.puffin.components(points.detach(), ptr, check_radius(radius))


def component_geometry(points: Tensor, ptr: Tensor, radius: float) -> Tensor:
    """Describe the connected component of every point: (P, 3), columns named by COMPONENT_NAMES.

    They are the number of points, the sum of their energies, and the largest distance of a point from their centroid.
    Arguments and errors as in `components`.
    """
    component, label = components(points, ptr, radius).unique(return_inverse=True)
    x, energy = points.detach().double().split((3, 1), dim=1)
    x = x - x[component][label]  # relative to the first point of the component
    size = torch.bincount(label, minlength=len(component)).double()
    energy = energy.new_zeros(len(component)).index_add(0, label, energy[:, 0])
    centroid = x.new_zeros(len(component), 3).index_add(0, label, x) / size[:, None]
    distance = (x - centroid[label]).norm(dim=1)
    extent = distance.new_zeros(len(component)).scatter_reduce(0, label, distance, "amax")
    return torch.stack([size, energy, extent], dim=1)[label].to(points.dtype)


def _check(points: Tensor, ptr: Tensor) -> None:
    if points.dim() != 2 or points.shape[1] != 4:
        raise ValueError(f"points: expected (P, 4): x, y, z, energy, got {tuple(points.shape)}")
    if points.dtype not in DTYPES:
        raise TypeError(f"points: expected float32 or float64, got {points.dtype}; convert with .float()")
    check_ptr(points, ptr)


# -- oracles ---------------------------------------------------------------------------------------------------------


def _events(points: Tensor, ptr: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, points) of every event that has points; raise RuntimeError for a ptr that does not fit."""
    first = ptr.tolist()
    if first[0] != 0 or first[-1] != len(points) or first != sorted(first):
        raise RuntimeError(f"ptr: expected ascending values from 0 to {len(points)}, got {first}")
    for begin, end in zip(first[:-1], first[1:], strict=True):
        if end > begin:
            yield begin, points[begin:end]


def geometry_oracle(points: Tensor, ptr: Tensor, neighbours: list[int], radii: list[float]) -> Tensor:
    """Describe surroundings in plain PyTorch: see `local_geometry`."""
    out = points.new_empty(len(points), len(geometry_names(tuple(neighbours), tuple(radii))))
    for begin, event in _events(points, ptr):
        n = len(event)
        for rows in chunks(n, 16 * n):  # a chunk needs about 16 numbers for each pair
            queries = event[rows]
            d = squared_distances(queries, event)
            columns, before = [], None
            nearest = d.topk(min(n, max(neighbours, default=0)), largest=False).values
            for k in neighbours:
                reach = nearest[:, min(n, k) - 1]
                covariance, *numbers = _moments(queries, event, d <= reach[:, None])
                columns += [*_shares(covariance), numbers[0], numbers[1], reach.sqrt(), numbers[2], numbers[3]]
                columns += [] if before is None else [_alignment(covariance, before)]
                before = covariance
            for radius in radii:
                inside = d < squared_radius(radius, event.dtype)
                columns += [inside.sum(1), inside.double() @ event[:, 3].double()]
            if columns:
                stop = begin + rows.start + len(queries)
                out[begin + rows.start : stop] = torch.stack([c.to(out.dtype) for c in columns], dim=1)
    return out


def _moments(queries: Tensor, event: Tensor, inside: Tensor) -> tuple[Tensor, ...]:
    """Return covariance (M, 3, 3), size, distance to the centroid, mean and deviation of the energy: (M,), float64.

    inside (M, n) bool: the neighbourhood of each query.
    """
    row, column = inside.nonzero(as_tuple=True)  # row by row
    relative = event[column].double() - queries[row].double()
    products = (relative[:, :, None] * relative[:, None, :]).flatten(1)
    mean = torch.segment_reduce(torch.cat([relative, products], dim=1), "mean", lengths=inside.sum(1))
    centre = mean[:, :4]
    covariance = mean[:, 4:].view(-1, 4, 4) - centre[:, :, None] * centre[:, None, :]
    trace = covariance[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1)
    deviation = covariance[:, 3, 3].clamp_min(0).sqrt()
    energy = queries[:, 3].double() + centre[:, 3]
    return covariance[:, :3, :3], trace.clamp_min(0).sqrt(), centre[:, :3].norm(dim=1), energy, deviation


def _shares(covariance: Tensor) -> tuple[Tensor, ...]:
    """Return the three eigenvalues over their sum, descending, 0 if the sum is 0: (M,) each."""
    values = torch.linalg.eigvalsh(covariance).flip(1).clamp_min(0)
    total = values.sum(1, keepdim=True)
    return torch.where(total > 0, values / total, 0.0).unbind(1)


def _alignment(a: Tensor, b: Tensor) -> Tensor:
    """Return tr(a b) / (|a| |b|) of symmetric matrices (M, 3, 3), 0 if one is 0: (M,)."""
    norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    return torch.where(norms > 0, (a * b).sum((1, 2)) / norms, 0.0)


def components_oracle(points: Tensor, ptr: Tensor, radius: float) -> Tensor:
    """Find components in plain PyTorch: every point takes the lowest label of its neighbours until none changes."""
    out = torch.empty(len(points), dtype=torch.int64, device=points.device)
    r2 = squared_radius(radius, points.dtype)
    for begin, event in _events(points, ptr):
        n = len(event)
        label = torch.arange(n, device=points.device)
        while True:
            near = [squared_distances(event[rows], event) <= r2 for rows in chunks(n, 8 * n)]
            lowest = torch.cat([torch.where(inside, label, n).amin(1) for inside in near])
            # the point that names a component takes the lowest label, too, so that long chains need few steps
            new = label.scatter_reduce(0, label, lowest, "amin")
            new = torch.minimum(new, lowest)
            while not torch.equal(new[new], new):
                new = new[new]
            if torch.equal(new, label):
                break
            label = new
        out[begin : begin + n] = begin + label
    return out


def _geometry_fake(points, ptr, neighbours, radii):
    return points.new_empty(points.shape[0], len(geometry_names(tuple(neighbours), tuple(radii))))


def _components_fake(points, ptr, radius):
    return points.new_empty(points.shape[0], dtype=torch.int64)


library.define(SCHEMA, geometry_oracle, _geometry_fake)
library.define(COMPONENTS_SCHEMA, components_oracle, _components_fake)
