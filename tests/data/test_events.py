"""What data sets share: choosing events, and open files."""

import logging
import pickle

import pytest
import torch

from puffin.data.events import EventDataset, choose_events
from puffin.errors import InputError


class File:
    """Counts how often files are opened and closed."""

    opened = closed = 0

    def __init__(self, path):
        self.path, File.opened = path, File.opened + 1

    def close(self):
        File.closed += 1


class Numbers(EventDataset):
    open_file = File

    def __init__(self, files):
        super().__init__(files, None)
        self.events = torch.arange(10)

    def __getitems__(self, numbers):
        return self._opened(0).path.name, self.events[torch.tensor(numbers, dtype=torch.int64)].tolist()


def test_events_in_use_and_open_files():
    """A file is opened once, again after close, and not sent to workers. restrict() counts selected events only."""
    dataset = Numbers(["a.h5"])
    dataset.restrict(torch.tensor([2, 4, 6, 8]))
    dataset.restrict(torch.tensor([1, 3]))
    assert len(dataset) == 2 and dataset[1] == ("a.h5", [8]) and dataset.__getitems__([1, 0]) == ("a.h5", [8, 4])
    assert dataset[[1, 0]] == ("a.h5", [8, 4]) and dataset[[]] == ("a.h5", [])
    assert (File.opened, File.closed) == (1, 0)
    other = pickle.loads(pickle.dumps(dataset))
    assert other[0] == dataset[0] == ("a.h5", [4]) and File.opened == 2
    dataset.close()
    assert File.closed == 1 and dataset[0] == ("a.h5", [4]) and File.opened == 3
    with pytest.raises(InputError, match="no data files"):
        Numbers([])


def test_batches_hold_every_event_once():
    """Breaks if the last events, which do not fill a batch, are lost."""
    read = [numbers for _, numbers in Numbers(["a.h5"]).batches(4)]
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_subsets(caplog):
    """Balanced, seeded and sorted; if too many events are requested, all are used, with a warning."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    subset = choose_events(labels, 100, 20, 1, "train")
    assert len(subset) == 20 and int(labels[subset].sum()) == 10 and subset.tolist() == sorted(subset.tolist())
    assert torch.equal(subset, choose_events(labels, 100, 20, 1, "train"))
    assert not torch.equal(subset, choose_events(labels, 100, 20, 2, "train"))
    assert int(labels[choose_events(labels, 100, 60, 1, "train")].sum()) == 10  # not enough signal: background fills up
    with caplog.at_level("WARNING", "puffin"):
        logging.getLogger("puffin").propagate = True
        assert len(choose_events(labels, 100, 1000, 1, "train")) == 100
    assert "train: 1000 events requested, but only 100 available; using all" in caplog.text
