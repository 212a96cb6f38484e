"""Signals and dead workers while the training waits for data."""

import os
import signal
import threading
import time

import pytest

import train_pelican_classifier as script
from puffin.checkpoints.reading import read_checkpoint
from puffin.data.jets import JetDataset
from puffin.runs.entry import run_script
from puffin.training.stopping import StoppedWaiting, StopRequests
from tests.patience import wait_until
from tests.runs.helpers import refused_by, same, weights
from tests.runs.test_classifier_script import TINY

STALLED = "stalled"


def command(data, work, *flags) -> list[str]:
    paths = ["--datadir", str(data), "--workdir", str(work), "--prefix", "tiny"]
    return [*TINY, *paths, "--num-epoch", "2", "--no-plot", *flags]


def in_training_batch(monkeypatch, number, action) -> None:
    """Call the action before a minibatch of the training split (counted from 1) is read, in the process that reads."""
    read, calls = JetDataset.__getitems__, []

    def read_or_act(self, numbers):
        calls.append(len(self) == 100 and len(numbers) > 0)
        if sum(calls) == number and calls[-1]:
            action()
        return read(self, numbers)

    monkeypatch.setattr(JetDataset, "__getitems__", read_or_act)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_sigterm_while_waiting_for_data_saves(small_jets, tmp_path, monkeypatch, workers):
    """The third minibatch never comes (a file server hangs). The first SIGTERM saves the two steps before and ends
    the run, and the continued run equals an uninterrupted one. Breaks if the request is looked at only after a step."""

    def stall():
        (tmp_path / STALLED).touch()
        time.sleep(600)

    def interrupt():
        wait_until((tmp_path / STALLED).exists)
        if workers == "1":  # the parent trains on the batches before, and then waits
            wait_until(lambda: "batch 2" in log.read_text(encoding="utf-8"))
        os.kill(os.getpid(), signal.SIGTERM)

    log = tmp_path / "cut/log/tiny.log"
    shown = ["--verbose", "--log-every", "1", "--num-workers", workers]
    script.main(command(small_jets, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        in_training_batch(patch, 3, stall)
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(SystemExit) as stop:
            run_script(script.main, command(small_jets, tmp_path / "cut", *shown))
        thread.join()
    assert stop.value.code == 128 + signal.SIGTERM
    assert read_checkpoint(tmp_path / "cut/model/tiny.pt")["progress"]["batch"] == 2
    script.main(command(small_jets, tmp_path / "cut", "--load"))
    assert same(weights(tmp_path / "whole/model/tiny.pt"), weights(tmp_path / "cut/model/tiny.pt"))


def test_a_worker_that_dies_ends_the_run(small_jets, tmp_path, monkeypatch, capsys):
    """As when the system is out of memory. One line says so; breaks if the run waits for ever."""
    in_training_batch(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    line = refused_by(script.main, command(small_jets, tmp_path, "--num-workers", "1"), capsys)
    assert "was killed by SIGKILL (out of memory?). Use fewer than --num-workers 1, or --num-workers 0" in line


def test_a_signal_outside_of_waiting_is_only_noted():
    """The step at hand is finished; the next wait ends before it begins. Breaks if the signal between is lost."""
    requests, seen = StopRequests(), []
    with requests:
        with pytest.raises(StoppedWaiting):
            for item in requests.awaited([1, 2, 3]):
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append(item)
        assert seen == [1] and requests.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def test_all_items_arrive():
    """Without a signal; None and empty batches are items, too."""
    assert list(StopRequests().awaited([None, 0, []])) == [None, 0, []]
