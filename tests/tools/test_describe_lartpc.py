"""tools/describe_lartpc.py on small files."""

import importlib
import sys

import numpy as np
import pytest

from puffin.errors import InputError
from tests.conftest import ROOT
from tests.runs.helpers import walk, write

sys.path.insert(0, str(ROOT / "tools"))
describe_lartpc = importlib.import_module("describe_lartpc")


@pytest.mark.parametrize("number", [1, 4, 8])
def test_draws_as_many_events_as_there_are(tmp_path, monkeypatch, capsys, number):
    """Up to six. Breaks if six are drawn from a file with fewer."""
    rng = np.random.default_rng(0)
    file = write(tmp_path / "a_v2.h5", [walk(rng, 120) for _ in range(number)])
    describe_lartpc.main([str(file), "--png", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert ("1 event " if number == 1 else f"{number} events") in capsys.readouterr().out


def test_an_event_that_is_missing(tmp_path, capsys):
    """Asked for by its number: one line, and no picture."""
    file = write(tmp_path / "a_v2.h5", [walk(np.random.default_rng(0), 120)])
    with pytest.raises(SystemExit) as stop:
        describe_lartpc.main([str(file), "--png", str(tmp_path / "a.png"), "--draw", "3"])
    assert "--draw: expected events 0 to 0 of" in str(stop.value.code) and not (tmp_path / "a.png").exists()


def test_no_points_at_all(tmp_path):
    """Breaks if the fractions of the classes are 0 / 0."""
    empty = (np.zeros((0, 8), np.float32), np.zeros((0, 6), np.int32))
    file = write(tmp_path / "a_v2.h5", [empty])
    with pytest.raises(InputError, match="expected events with points, found none"):
        describe_lartpc.describe([file])
