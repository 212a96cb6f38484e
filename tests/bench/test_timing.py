"""What the comparisons share."""

import argparse
import subprocess
import sys

import pytest

from bench.timing import PeakMemory, add_timing_arguments, check_positive, in_turns, memory_in_child
from tests.conftest import ROOT
from tests.patience import wait_until


def test_turns(monkeypatch):
    """A B A B ..., batch after batch, and the first turn does not count: it is slow here. Breaks if one is timed after the other."""
    order, clock = [], [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def action(name, number):
        def act():
            order.append((name, number))
            clock[0] += 100 if len(order) <= 2 else number + 1

        return act

    seconds = in_turns({name: [action(name, k) for k in range(2)] for name in "ab"}, 2, "step")
    assert order == [("a", 1), ("b", 1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert seconds == {"a": 1.5, "b": 1.5}


def test_memory_of_a_step():
    """256 MiB.  A small process stands between this one and the measuring one, which would inherit the peak of this one."""
    code = "from bench.timing import memory_of\nprint(memory_of(lambda: bytearray(b'x') * 2**28))"
    between = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    done = subprocess.run([sys.executable, "-c", between, code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 2**20 == pytest.approx(256, rel=0.1)


def test_memory_in_a_child(tmp_path):
    """The child gets the flags of this process; one that fails ends it, with what it said."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nassert sys.argv[1:] == ['--repeat', '3', '--memory-of', 'a'], 'other flags'\nprint(7)\n"
    )
    assert memory_in_child(str(program), "a", ["--repeat", "3"]) == 7
    with pytest.raises(SystemExit, match="(?s)memory of b failed.*other flags"):
        memory_in_child(str(program), "b", [])


def test_flags(capsys):
    """Numbers below 1 are one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=2)
    add_timing_arguments(parser, ("a", "b"))
    args = parser.parse_args(["--memory-of", "b"])
    assert (args.memory_of, args.repeat, args.out) == ("b", 5, None)
    check_positive(parser, args, "batch_size")
    for flag in ("--repeat", "--threads", "--batch-size"):
        with pytest.raises(SystemExit):
            check_positive(parser, parser.parse_args([flag, "0"]), "batch_size")
        assert f"{flag} must be at least 1" in capsys.readouterr().err


def test_peak_memory():
    """The most that was held while it watched, and what was held before."""
    held = [100, 150, 900, 300]
    memory = PeakMemory(lambda: held.pop(0) if len(held) > 1 else held[0])
    wait_until(lambda: len(held) == 1)
    assert (memory.before, memory.peak) == (100, 900)
