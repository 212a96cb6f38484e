"""The order of events: every event once, near its chunk-mates, resumable, shared by ranks."""

import pytest
import torch

from puffin.data import sampler
from puffin.data.sampler import EpochBatches


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Groups of about 20 events instead of thousands."""
    monkeypatch.setattr(sampler, "GROUP", 20)


CHUNKS = torch.arange(103) // 8  # the last chunk has 7 events


def batches(seed=1, size=6, shuffle=True, **more):
    return EpochBatches(103, size, shuffle, seed, chunk_of=CHUNKS, **more)


def test_every_event_once_in_groups_of_chunks():
    """Groups have complete chunks (none is read twice), about the requested size, and a shuffled order."""
    groups = list(batches().groups())
    assert sorted(sum(groups, [])) == list(range(103))
    chunks = [set(CHUNKS[torch.tensor(g)].tolist()) for g in groups]
    assert sum(map(len, chunks)) == len(set().union(*chunks)) == 13
    assert all(8 <= len(g) <= 28 for g in groups) and max(len(g) for g in groups) >= 16
    assert all(g != sorted(g) for g in groups if len(g) > 8)
    assert [min(c) for c in chunks] != sorted(min(c) for c in chunks)  # chunks are shuffled as well


def test_groups_hold_what_the_batches_hold():
    """Cutting groups must give the batches, from any batch on, on every rank."""
    for rank, ranks in ((0, 1), (0, 3), (2, 3)):
        order = batches(size=4, rank=rank, num_ranks=ranks)
        for first in range(order.batches_per_epoch):
            order.start(5, first)
            expected = list(order)
            assert sum(order.groups(), []) == sum(expected, []) and order.sizes() == [len(b) for b in expected]


def test_ranks_share_the_batches_of_one():
    """Three ranks with batches of 2 see what one process with batches of 6 sees; no event is lost or repeated.

    There are 103 = 17 x 6 + 1 events: the last batch has one event, and is empty on two ranks."""
    one = [sorted(b) for b in batches(size=6)]
    three = [list(batches(size=2, rank=r, num_ranks=3)) for r in range(3)]
    assert [sorted(a + b + c) for a, b, c in zip(*three, strict=True)] == one
    assert [len(b[-1]) for b in three] == [1, 0, 0]


def test_order_is_of_seed_and_epoch():
    """The same seed and epoch give the same order, others another one. The batch size does not change it."""

    def order(seed, epoch, size=6):
        b = batches(seed, size)
        b.start(epoch)
        return sum(b, [])

    assert order(1, 2) == order(1, 2) == order(1, 2, size=10)
    assert len({tuple(order(s, e)) for s in (1, 2) for e in (0, 1)}) == 4


def test_unshuffled_is_file_order():
    """Evaluation reads the chunks one after another."""
    assert sum(batches(shuffle=False), []) == sum(batches(shuffle=False).groups(), []) == list(range(103))


def test_chunks_without_events():
    """A subset may leave chunks empty, at the beginning too; one chunk may be larger than a group."""
    chunks = torch.tensor([3] * 50 + [7] * 2)
    order = EpochBatches(52, 10, True, 0, chunk_of=chunks)
    assert (
        sorted(sum(order.groups(), [])) == sorted(sum(order, [])) == list(range(52)) and len(list(order.groups())) <= 2
    )
