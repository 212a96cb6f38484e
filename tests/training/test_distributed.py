"""Several processes: the same training as one process, a common end, and one log."""

import os
import socket
import subprocess
import sys

import pytest
import torch

import train_pelican_classifier as script
from puffin.files import whole_file
from puffin.training import distributed
from tests.conftest import ROOT, relative
from tests.patience import PATIENCE, wait_until
from tests.runs.helpers import same, weights
from tests.training.two_processes import FIXED, SAME, flags


def start_two(scenario: str, small_jets, work) -> list[subprocess.Popen]:
    """Start the two processes of a scenario, as torchrun would."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.training.two_processes", scenario, str(small_jets), str(work)]
    return [
        subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=shared | {"RANK": r, "LOCAL_RANK": r}
        )
        for r in ("0", "1")
    ]


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    """Start two processes with torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def end_of(processes) -> list[str]:
    """Wait for all processes; return the stderr of each."""
    try:
        return [p.communicate(timeout=PATIENCE)[1] for p in processes]
    finally:
        [p.kill() for p in processes]


def run_two(scenario: str, small_jets, work) -> None:
    """Run a scenario to its end; only process 0 may write to stderr."""
    processes = start_two(scenario, small_jets, work)
    errors = end_of(processes)
    assert [p.returncode for p in processes] == [0, 0], errors
    assert errors[1] == ""


def check_same_training(one, two, nan_ok: bool = False) -> None:
    """Compare weights, statistics, losses and metrics of two checkpoints, up to rounding."""
    assert one["model_state"].keys() == two["model_state"].keys()
    for name, value in one["model_state"].items():
        assert relative(two["model_state"][name].double(), value.double()) < 1e-8, name
    for a, b in zip(one["progress"]["history"], two["progress"]["history"], strict=True):
        for name in set(a) - {"train_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-9, nan_ok=nan_ok), name


@pytest.fixture(scope="module")
def runs(small_jets, tmp_path_factory):
    """Folder of runs on two processes, and of one of them on one process with the same global batch."""
    work = tmp_path_factory.mktemp("two")
    run_two("whole", small_jets, work)
    script.main(flags(str(small_jets), str(work / "one"), *SAME, "--batch-size", "20"))
    return work


def state(folder, name="tiny.pt"):
    return torch.load(folder / "model" / name, weights_only=True)


def test_same_training_as_one_process(runs):
    """Losses, weights, running statistics and averages to rounding, although the last batch is empty on one process."""
    one, two = state(runs / "one"), state(runs / "two")
    for key in ("model_state", "average_state"):
        assert one[key].keys() == two[key].keys()
        for name, value in one[key].items():
            assert relative(two[key][name].double(), value.double()) < 1e-8, name
    for a, b in zip(one["progress"]["history"], two["progress"]["history"], strict=False):
        for name in ("step", "lr", "train_loss", "valid_loss", "valid_AUC"):
            assert a[name] == pytest.approx(b[name], rel=1e-9), name


@pytest.mark.parametrize("split, number", [("train", 61), ("valid", 40), ("test", 60)])
def test_every_event_once(runs, split, number):
    """Predictions are those of one process, in the same order, whether processes share the evaluation or not.

    (`alone` has other weights: streamed jets have an order of their own.)"""
    one, two, alone = (
        torch.load(runs / f / f"predict/tiny.final.{split}.pt", weights_only=True) for f in ("one", "two", "alone")
    )
    for ours in (two, alone):
        assert ours["index"].tolist() == list(range(number)) and torch.equal(ours["targets"], one["targets"])
        assert torch.equal(ours["row"], one["row"]) and (
            split != "train" or not torch.equal(ours["row"], ours["index"])
        )
    assert relative(two["predict"], one["predict"]) < 1e-8


def test_separate_statistics_without_sync(runs):
    """--no-sync-batchnorm trains differently (control of the tests above); evaluation uses one set of statistics."""
    differ, two = state(runs / "unsynchronised")["model_state"], state(runs / "two")["model_state"]
    assert max(relative(differ[k].double(), two[k].double()) for k in two) > 1e-4


def test_dropout_differs_between_processes(runs):
    """Each process has its own random numbers, and they are kept for the continuation."""
    generators = [torch.Generator(), torch.Generator()]
    for generator, kept in zip(generators, state(runs / "dropout")["rng"], strict=True):
        generator.set_state(kept["cpu"])
    assert generators[0].initial_seed() == 1 != generators[1].initial_seed()


def test_one_signal_stops_all_and_the_run_continues_bit_for_bit(runs):
    """SIGTERM goes to the second process only, in step 2. Both stop after it; the resumed run is bitwise identical."""
    assert state(runs / "fewer")["progress"]["step"] == 2
    assert same(weights(runs / "dropout/model/tiny.pt"), weights(runs / "cut/model/tiny.pt"))
    for a, b in zip(state(runs / "dropout")["rng"], state(runs / "cut")["rng"], strict=False):
        assert torch.equal(a["cpu"], b["cpu"])


def test_continues_on_another_number_of_processes(runs, small_jets):
    """One process resumes a run of two, at the same event of the epoch, with its own batches; the log says so."""
    script.main(flags(str(small_jets), str(runs / "fewer"), "--cpu", "--load", "--no-plot", "--prefix", "tiny"))
    text = (runs / "fewer/log/tiny.log").read_text()
    assert (
        "2 processes, now on 1" in text
        and "minibatches of 10 events instead of 20: continuing at minibatch 4, step 4" in text
    )
    progress = state(runs / "fewer")["progress"]
    assert progress["step"] == 14 and len(progress["history"]) == 2


def test_only_the_first_process_writes(runs):
    """One line of each kind in the log, one row in the table, and no files but those of one process."""
    text = (runs / "two/log/tiny.log").read_text()
    assert (
        text.count("2 processes with minibatches of 10: 20 events per global minibatch") == 1
        and text.count("epoch 1/2:") == 1
    )
    assert len((runs / "two/log/tiny.Best.metrics.csv").read_text().splitlines()) == 2
    names = [sorted(str(p.relative_to(runs / f)) for p in (runs / f).rglob("*") if p.is_file()) for f in ("one", "two")]
    assert names[0] == names[1]


def test_failure_of_one_ends_all(small_jets, tmp_path):
    """The second process fails while the first waits for it: both end at once, and the log of the first says why.

    With torchrun, which could end the first process before it writes the reason."""
    result = torchrun("-m", "tests.training.two_processes", "fail", str(small_jets), str(tmp_path))
    assert result.returncode != 0 and result.stderr.count("event 7 is not finite") == 1
    assert "process 1: train.h5: event 7 is not finite" in (tmp_path / "fail/log/tiny.log").read_text().splitlines()[-1]


def test_killed_process_ends_all(small_jets, tmp_path):
    """A process that is killed (kill -9) is reported as lost, and the other one does not wait for it."""
    processes = start_two("whole", small_jets, tmp_path)
    wait_until((tmp_path / "two/model/tiny.pt").exists)
    processes[1].kill()
    errors = end_of(processes)
    assert processes[0].returncode == 1 and "lost another process" in errors[0].strip().splitlines()[-1]


def test_torchrun_with_bad_input(small_jets, tmp_path):
    """One line for both processes, a non-zero status, nothing written."""
    result = torchrun("train_pelican_classifier.py", *flags("nowhere", str(tmp_path / "w"), *FIXED))
    lines = [line for line in result.stderr.splitlines() if "nowhere: no such folder" in line]
    assert result.returncode != 0 and len(lines) == 1 and "ERROR" in lines[0] and not (tmp_path / "w").exists()


def test_incomplete_environment(monkeypatch):
    """WORLD_SIZE without the other variables is refused, because the process would wait for ever."""
    from puffin.errors import InputError

    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="RANK.*torchrun"):
        distributed.connect()


def test_alone():
    """Without torchrun every exchange returns what it was given."""
    rows = {"index": torch.tensor([1, 0])}
    assert distributed.gather_events(rows) is rows and distributed.total(1, 2.5) == [1, 2.5]
    assert (
        distributed.from_main("x") == "x"
        and distributed.to_main("x") == ["x"]
        and distributed.report_failure("x") == "x"
    )


def test_gathering_sorts_events_and_their_particles(monkeypatch):
    """Rows come back in the order of the events, together with the particles of each event."""
    parts = [
        {"index": torch.tensor([2, 0]), "lengths": torch.tensor([2, 1]), "particle_x": torch.tensor([20, 21, 0])},
        {"index": torch.tensor([1]), "lengths": torch.tensor([3]), "particle_x": torch.tensor([10, 11, 12])},
    ]
    monkeypatch.setattr(distributed, "num_ranks", lambda: 2)
    monkeypatch.setattr(distributed, "to_main", lambda outputs: parts)
    joined = distributed.gather_events(parts[0])
    assert joined["index"].tolist() == [0, 1, 2] and joined["lengths"].tolist() == [1, 3, 2]
    assert joined["particle_x"].tolist() == [0, 10, 11, 12, 20, 21]


def test_process_that_is_ended_leaves_no_half_file(tmp_path, monkeypatch):
    """The watching thread removes a file that the main thread is writing and cannot finish."""
    watch, ended = distributed._Watch(torch.distributed.HashStore()), []

    def end(status):
        ended.append((status, list(tmp_path.iterdir())))
        watch.stop()

    monkeypatch.setattr(distributed.os, "_exit", end)
    assert watch.report("event 7 is not finite") == "event 7 is not finite"
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "x.h5"):
        assert len(list(tmp_path.iterdir())) == 1
        watch.run()
    assert ended == [(1, [])]
