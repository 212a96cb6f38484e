"""bench/timing.py: helpers of the benchmarks."""

import argparse
import subprocess
import sys

import pytest

from bench.timing import PeakMemory, add_timing_arguments, check_positive, in_turns, memory_in_child
from tests.conftest import ROOT
from tests.patience import wait_until


def test_turns(monkeypatch):
    """The actions alternate (A B A B ...), batch after batch; the first round, which is slow here, is not counted."""
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
    """256 MiB. A small process is started in between, because a child inherits the peak memory of its parent."""
    code = "from bench.timing import memory_of\nprint(memory_of(lambda: bytearray(b'x') * 2**28))"
    between = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    done = subprocess.run([sys.executable, "-c", between, code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 2**20 == pytest.approx(256, rel=0.1)


def test_memory_in_a_child(tmp_path):
    """The child gets the flags of this process. If it fails, so does this process, with the child's error message."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nassert sys.argv[1:] == ['--repeat', '3', '--memory-of', 'a'], 'other flags'\nprint(7)\n"
    )
    assert memory_in_child(str(program), "a", ["--repeat", "3"]) == 7
    with pytest.raises(SystemExit, match="(?s)memory of b failed.*other flags"):
        memory_in_child(str(program), "b", [])


def test_flags(capsys):
    """Numbers below 1 are errors of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=2)
    add_timing_arguments(parser, ("a", "b"))
    args = parser.parse_args(["--memory-of", "b"])
    assert (args.memory_of, args.repeat, args.out) == ("b", 5, None)
    check_positive(parser, args, "batch_size")
    with pytest.raises(SystemExit):
        check_positive(parser, parser.parse_args(["--batch-size", "0"]), "batch_size")
    assert "--batch-size must be at least 1" in capsys.readouterr().err
    for flag in ("--repeat", "--threads"):
        with pytest.raises(SystemExit):
            parser.parse_args([flag, "0"])
        assert f"argument {flag}: expected an integer of at least 1, got '0'" in capsys.readouterr().err


def test_peak_memory():
    """`peak` is the largest value after the start, `before` the value at the start."""
    held = [100, 150, 900, 300]
    memory = PeakMemory(lambda: held.pop(0) if len(held) > 1 else held[0])
    wait_until(lambda: len(held) == 1)
    assert (memory.before, memory.peak) == (100, 900)
