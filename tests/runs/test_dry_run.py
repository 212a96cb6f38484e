"""--dry-run: what it prints, and that it writes nothing."""

import re

import pytest

import train_pelican_classifier
import train_pointmae
from puffin.runs.dry_run import _seconds_of_one, time_in_words
from tests.runs.helpers import TINY_AUTOENCODER, TINY_CLOUDS, TINY_PELICAN, existing_run

JETS = [*TINY_PELICAN, *"--nobj 12 --batch-size 20 --prefix tiny --num-epoch 2 --no-plot".split()]


def files(*folders):
    """Return all files and folders below some folders, with the times when they changed."""
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def test_clouds(small_clouds, tmp_path, capsys):
    """Breaks if an index is written next to the events, or a folder of the run is created."""
    before = files(small_clouds, tmp_path)
    flags = ["--datadir", str(small_clouds), "--workdir", str(tmp_path)]
    assert train_pointmae.main([*TINY_AUTOENCODER, *TINY_CLOUDS, *flags, "--dry-run"]) == []
    assert files(small_clouds, tmp_path) == before
    printed = capsys.readouterr().out
    assert re.search(r"^train: 10 events of .*/train/events_v2.h5$", printed, re.M)
    assert re.search(r"^network: PointMAE with [\d,]+ parameters, on cpu$", printed, re.M)


def test_training_and_resuming(small_jets, tmp_path, capsys):
    """The numbers of steps, those that remain of a run that is resumed, and the minibatches of all evaluations."""
    line = [*JETS, "--datadir", str(small_jets), "--workdir", str(tmp_path)]
    train_pelican_classifier.main([*line, "--dry-run"])
    printed = capsys.readouterr().out
    assert "train: 100 events" in printed and "nobj: 12" in printed and "earlier run" not in printed
    assert "training: 10 steps of" in printed  # 2 epochs of 5
    assert "evaluation: 10 minibatches of" in printed  # 2 validations of 2, and twice the 3 of the test events
    train_pelican_classifier.main(line)
    before = files(tmp_path)
    train_pelican_classifier.main([*line, "--dry-run"])
    assert re.search(r"would replace \d+ files of an earlier run 'tiny'", capsys.readouterr().out)
    train_pelican_classifier.main(existing_run(small_jets, tmp_path, "--load", "--num-epoch", "3", "--dry-run"))
    assert "training: 5 steps of" in (printed := capsys.readouterr().out) and "would replace" not in printed
    train_pelican_classifier.main(existing_run(small_jets, tmp_path, "--eval", "--dry-run"))
    assert "training: " not in (printed := capsys.readouterr().out) and "evaluation: 2 minibatches of" in printed
    assert files(tmp_path) == before


@pytest.mark.parametrize("seconds, text", [(0.5, "0.5 seconds"), (90, "1.5 minutes"), (7200, "2 hours")])
def test_time_in_words(seconds, text):
    """Breaks if a unit is wrong."""
    assert time_in_words(seconds) == text and time_in_words(86400 * 12) == "12.0 days"


def test_the_first_step_does_not_count(monkeypatch):
    """Breaks if the first step, which is slower, is part of the mean, unless it is the only one."""
    clock = iter([0.0, 10.0, 12.0, 15.0, 16.0, 18.0, 100.0])
    monkeypatch.setattr("puffin.runs.dry_run.time.perf_counter", lambda: next(clock))
    assert _seconds_of_one(iter([None] * 6)) == 2.0
    clock = iter([0.0, 3.0])
    assert _seconds_of_one(iter([None])) == 3.0
