"""`assert_equivariant`: measure how a layer's output changes under a group, then judge.

A `PairLayer` says what the layer takes and returns; a group transforms random inputs in float64 and knows what must
become of the output. Each group also measures a control, a transformation outside it, which must break the symmetry.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from puffin.layers.packed_pairs import PackedPairs
from puffin.layers.symmetries import (
    CHANGED,
    UNCHANGED,
    Measurement,
    failures,
    random_permutation,
    random_transformation,
    relative_change,
    split_generators,
    stretched_space,
    toy_momenta,
)
from puffin.ops.pair_index import PairIndex


def geometry(lengths) -> PackedPairs:
    """Make the packed pairs of events with these many nodes, in float64."""
    return PackedPairs.of(PairIndex(torch.as_tensor(lengths), torch.device("cpu")), torch.float64)


def events_of(x: Tensor, rank: str, pairs: PairIndex) -> list[Tensor]:
    """Split a feature of "events", "nodes" or "pairs" into its events: (C,), (n, C) or (n, n, C) each."""
    lengths = pairs.lengths.tolist()
    if rank != "pairs":
        return list(x) if rank == "events" else list(x.split(lengths))
    table = x.new_zeros(pairs.num_nodes, pairs.num_nodes, x.shape[1])
    table[pairs.row, pairs.column] = x
    starts = pairs.node_ptr.tolist()
    return [table[a : a + n, a : a + n] for a, n in zip(starts, lengths, strict=False)]


def packed(events: list[Tensor], rank: str, pairs: PairIndex) -> Tensor:
    """Undo `events_of`."""
    if rank != "pairs":
        return torch.stack(events) if rank == "events" else torch.cat(events)
    table = events[0].new_zeros(pairs.num_nodes, pairs.num_nodes, events[0].shape[-1])
    for start, event in zip(pairs.node_ptr.tolist(), events, strict=False):
        table[start : start + len(event), start : start + len(event)] = event
    return table[pairs.row, pairs.column]


@dataclass(frozen=True)
class PairLayer:
    """A layer as a function (x, geometry) -> output, in float64.

    takes, returns: "events", "nodes" or "pairs".  momenta: x is (N, 4), of toy jets, not random features.
    local: the layer treats each node or pair alone, so that it also commutes with permutations of pairs.
    """

    function: Callable[[Tensor, PackedPairs], Tensor]
    takes: str
    returns: str
    channels: int = 3
    momenta: bool = False
    local: bool = False

    def sample(self) -> tuple[Tensor, PairIndex]:
        """Draw an input, and the pairs it belongs to."""
        if self.momenta:
            momenta, lengths = toy_momenta(4, torch.Generator().manual_seed(0))
            return momenta, PairIndex(lengths, torch.device("cpu"))
        pairs = PairIndex(torch.tensor([5, 1, 7, 2]), torch.device("cpu"))
        rows = {"events": 4, "nodes": pairs.num_nodes, "pairs": pairs.num_pairs}[self.takes]
        generator = torch.Generator().manual_seed(0)
        return torch.randn(rows, self.channels, generator=generator, dtype=torch.float64), pairs

    def output(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Apply the layer to x of events with these numbers of nodes."""
        return self.function(x, geometry(lengths)).detach()


def permuted(x: Tensor, rank: str, order: Tensor, pairs: PairIndex, columns: bool = True) -> Tensor:
    """Apply an order (N,) of the nodes to a feature; columns: False permutes the rows i of pairs (i, j) alone."""
    if rank == "events":
        return x
    if rank == "nodes":
        return x[order]
    position = torch.zeros(pairs.num_nodes, pairs.num_nodes, dtype=torch.int64)
    position[pairs.row, pairs.column] = torch.arange(pairs.num_pairs)
    return x[position[order[pairs.row], order[pairs.column] if columns else pairs.column]]


class Permutations:
    """Permutations of the nodes within each event."""

    def measure(self, layer: PairLayer) -> Iterator[Measurement]:
        """Control: permute the rows of pairs alone, or exchange nodes of different events, or scale the features."""
        x, pairs = layer.sample()
        order = random_permutation(pairs.lengths, torch.Generator().manual_seed(1))
        out = layer.output(x, pairs.lengths)
        expected = permuted(out, layer.returns, order, pairs)
        found = layer.output(permuted(x, layer.takes, order, pairs), pairs.lengths)
        yield Measurement("permutation of nodes", relative_change(found, expected), UNCHANGED)
        if layer.local:
            outside, expected = 1.5 * x, out
        elif layer.takes == "pairs":
            outside = permuted(x, "pairs", order, pairs, columns=False)
        else:
            outside, expected = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))], out
        yield Measurement(
            "control: other transformation", relative_change(layer.output(outside, pairs.lengths), expected), CHANGED
        )


class BatchMates:
    """Other events in the batch, on which an event's output must not depend."""

    def measure(self, layer: PairLayer) -> Iterator[Measurement]:
        """Control: other features in the event itself."""
        x, pairs = layer.sample()
        out = layer.output(x, pairs.lengths)
        inputs, outputs = events_of(x, layer.takes, pairs), events_of(out, layer.returns, pairs)
        change, control = 0.0, 0.0
        for k, (event, together) in enumerate(zip(inputs, outputs, strict=True)):
            lengths = pairs.lengths[k : k + 1]
            index = PairIndex(lengths, pairs.device)
            expected = packed([together], layer.returns, index)
            change = max(change, relative_change(layer.output(packed([event], layer.takes, index), lengths), expected))
            other = event @ stretched_space() if layer.momenta else event + event.square()
            other = layer.output(packed([other], layer.takes, index), lengths)
            control = max(control, relative_change(other, expected))
        yield Measurement("each event alone", change, UNCHANGED)
        yield Measurement("control: changed event", control, CHANGED)


@dataclass(frozen=True)
class LorentzStabilizer:
    """Lorentz transformations of the input momenta that fix vectors and forms; the output must not change.

    covariant: the output is momenta, and must transform as the input does.
    """

    vectors: tuple = ()
    forms: tuple = ()
    covariant: bool = False

    def measure(self, layer: PairLayer) -> Iterator[Measurement]:
        """Controls: a transformation of the complement; for invariants a stretched space, too."""
        x, pairs = layer.sample()
        out = layer.output(x, pairs.lengths)
        random = torch.Generator().manual_seed(1)

        def change(matrix: Tensor) -> float:
            expected = out @ matrix.t() if self.covariant else out
            return relative_change(layer.output(x @ matrix.t(), pairs.lengths), expected)

        stabilizer, complement = split_generators(self.vectors, self.forms)
        if len(stabilizer):
            yield Measurement("stabilizer", change(random_transformation(stabilizer, random)), UNCHANGED)
        if len(complement):
            yield Measurement("control: complement", change(random_transformation(complement, random)), CHANGED)
        if not self.covariant:  # parts of momenta along the axes are stretched with them
            yield Measurement("control: stretched space", change(stretched_space()), CHANGED)


def assert_equivariant(layer: PairLayer, group) -> None:
    """Measure all changes under the group and its controls, then fail with those that are too large or too small."""
    measurements = list(group.measure(layer))
    assert any(m.expected == CHANGED for m in measurements), "no control was measured"
    failed = failures(measurements)
    assert not failed, "; ".join(map(str, failed))
