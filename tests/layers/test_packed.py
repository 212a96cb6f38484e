"""Index arithmetic of packed rows."""

import pytest
import torch

from puffin.layers.packed import check_packed, event_of_row, offsets, pad, rank_in_event, slots, to_device, unpad

LENGTHS = torch.tensor([2, 0, 3])


def test_by_hand():
    """Wrong offsets, also after an empty event, break it."""
    assert offsets(LENGTHS).tolist() == [0, 2, 2, 5]
    assert event_of_row(LENGTHS).tolist() == [0, 0, 2, 2, 2]
    assert rank_in_event(LENGTHS).tolist() == [0, 1, 0, 1, 2]
    assert slots(LENGTHS, 4).tolist() == [0, 1, 8, 9, 10]


@pytest.mark.parametrize("lengths", [[2, 0, 3], [0, 0], [], [7]])
def test_pad_and_back(lengths):
    lengths = torch.tensor(lengths, dtype=torch.int64)
    x = torch.randn(int(lengths.sum()), 3)
    table = pad(x, lengths)
    assert table.shape == (len(lengths), max(lengths.tolist(), default=0), 3)
    assert torch.equal(unpad(table, lengths), x)
    assert table.count_nonzero() == x.count_nonzero()


@pytest.mark.parametrize(
    "points, lengths, words",
    [
        (torch.zeros(5, 2), LENGTHS, "or more"),
        (torch.zeros(5, 3).long(), LENGTHS, "floating point"),
        (torch.zeros(4, 3), LENGTHS, "add up to 4"),
        (torch.zeros(5, 3), LENGTHS.int(), "int64"),
        (torch.zeros(5, 3), torch.tensor([6, -1]), "add up"),
    ],
)
def test_bad_input(points, lengths, words):
    with pytest.raises(ValueError, match=words):
        check_packed(points, lengths, 3)


@pytest.mark.parametrize("rows, pinned", [(8192, False), (8193, True)])
def test_large_index_tensors_are_copied_from_pinned_memory(monkeypatch, rows, pinned):
    """Without waiting in any case. Breaks if more than 64 KiB of ordinary memory are copied: the driver may wait."""
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: calls.append("pinned") or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking=False: calls.append(non_blocking) or x)
    to_device(torch.arange(rows), torch.device("cuda:0"))
    assert calls == (["pinned", True] if pinned else [True])
