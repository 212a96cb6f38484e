"""A run owns its files while it trains; who may take them over, and when."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

import train_pelican_classifier as script
from puffin.errors import InputError
from puffin.runs import run_lock
from puffin.runs.run_lock import STALE, RunLock, this_process
from tests.patience import PATIENCE
from tests.runs.helpers import refused_by
from tests.runs.test_classifier_script import command


def leave(folder, age=0.0, **owner):
    """Leave the file of another owner, which was touched some seconds ago; return its path."""
    path = folder / ".top.running"
    path.write_text(json.dumps({**this_process(), **owner}))
    os.utime(path, (time.time() - age,) * 2)
    return path


OTHER = {"host": "other", "machine": "other boot pids", "process": 7, "since": "2026-01-02 03:04:05"}


def test_second_run_is_refused(tmp_path):
    """The error names the owner and the time; the folders of both locks may differ, if they share one."""
    log, model, other = (tmp_path / name for name in ("log", "model", "other"))
    with RunLock("top", [log, model]), pytest.raises(InputError, match=rf"process {os.getpid()} on .* since 20"):
        RunLock("top", [other, model]).__enter__()
    assert not list(other.glob(".top*"))  # what it had taken before is given back
    with RunLock("top", [log, model]), RunLock("top-2", [log, model]):
        pass
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


@pytest.mark.parametrize(
    "age, owner, reason",
    [
        (0, OTHER, None),
        (STALE - 30, OTHER, None),
        (STALE + 60, OTHER, "no activity for 6 minutes"),
        (0, {"process": 2**22 + 1}, "its process has ended"),  # larger than any process number
        (0, {"process": os.getppid(), "started": "1"}, "its process has ended"),  # the number was used again
        (0, {"machine": f"{socket.gethostname()} earlier pids"}, "the machine was started again"),
        (0, OTHER | {"job": "SLURM_JOB_ID=12", "restart": "0"}, "its batch job was queued again"),
        (0, OTHER | {"job": "SLURM_JOB_ID=12", "restart": "1"}, None),  # a second command of the same job
        (0, OTHER | {"job": "SLURM_JOB_ID=13", "restart": "0"}, None),
    ],
)
def test_who_is_taken_over(tmp_path, monkeypatch, caplog, age, owner, reason):
    """Only an owner that has ended, as far as one can know; otherwise the run is refused and its file stays."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    messages = []
    monkeypatch.setattr(run_lock.log, "warning", messages.append)
    path = leave(tmp_path, age, **{"job": "", "restart": ""} | owner)
    before = path.read_text()
    if reason is None:
        with pytest.raises(InputError, match="is being trained by"):
            RunLock("top", [tmp_path]).__enter__()
        assert path.read_text() == before
    else:
        with RunLock("top", [tmp_path]):
            assert json.loads(path.read_text())["process"] == os.getpid()
        assert reason in messages[0] and not path.exists()


@pytest.mark.parametrize("content", ["", "[1]", "{", "\0\1"])
def test_unreadable_file(tmp_path, content):
    """A file that says nothing, from a full disk, counts as an owner until it is old."""
    path = tmp_path / ".top.running"
    path.write_text(content)
    with pytest.raises(InputError, match="is being trained by"):
        RunLock("top", [tmp_path]).__enter__()
    os.utime(path, (time.time() - STALE - 30,) * 2)
    with RunLock("top", [tmp_path]):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell")
def test_owner_that_has_ended_but_is_still_listed(tmp_path):
    """In containers a killed process can stay in the list of the system. Breaks if it counts as alive."""
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path = leave(tmp_path, process=owner.pid, started=run_lock._start_of_process(owner.pid))
    with pytest.raises(InputError):
        RunLock("top", [tmp_path]).__enter__()
    owner.kill()
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet taken note of
    with RunLock("top", [tmp_path]):
        assert json.loads(path.read_text())["process"] == os.getpid()
    owner.communicate()


def test_heartbeat_keeps_the_file_young(tmp_path, monkeypatch):
    """Breaks if the owner does not touch its file: after five minutes it would be taken for dead."""
    monkeypatch.setattr(run_lock, "BEAT", 0.01)
    with RunLock("top", [tmp_path]) as lock:
        os.utime(lock.files[0], (0, 0))
        deadline = time.monotonic() + PATIENCE
        while lock.files[0].stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.files[0].stat().st_mtime > 1


def test_owner_that_was_suspended_stops(tmp_path):
    """A process that wakes up after another one has taken over writes nothing more, and leaves the new file."""
    with RunLock("top", [tmp_path]) as lock:
        lock.check()
        path = leave(tmp_path, **OTHER, id="new")
        with pytest.raises(InputError, match="process 7 on other"):
            lock.check()
    assert json.loads(path.read_text())["id"] == "new"


def test_one_of_many_wins(tmp_path):
    """Of many threads that find the file of a dead owner at once, exactly one takes over."""
    for _ in range(20):
        leave(tmp_path, STALE + 30, **OTHER)
        start, won = threading.Barrier(6), []

        def race(start=start, won=won):
            start.wait()
            try:
                won.append(RunLock("top", [tmp_path]).__enter__())
            except InputError:
                pass

        threads = [threading.Thread(target=race) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(won) == 1
        won[0].__exit__()


def test_file_system_without_hard_links(tmp_path, monkeypatch):
    """Stand-in (a patched call) for FAT and some network mounts: the lock still excludes a second run."""

    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with RunLock("top", [tmp_path]), pytest.raises(InputError):
        RunLock("top", [tmp_path]).__enter__()


def _hold(folder, ready, done):
    with RunLock("tiny", [folder / "log", folder / "model", folder / "predict"]):
        ready.set()
        done.wait(PATIENCE)


def test_script_refuses_a_name_in_use(small_jets, tmp_path, capsys):
    """A second training of the name, also with --load, is refused and changes nothing; an evaluation is allowed.

    After the owner was killed, the name is free at once."""
    script.main(command(small_jets, tmp_path, "--no-plot", "--num-epoch", "1"))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, ready, done))
    owner.start()
    try:
        assert ready.wait(PATIENCE)
        for further in ([], ["--load", "--num-epoch", "3"]):
            line = refused_by(script.main, command(small_jets, tmp_path, "--no-plot", *further), capsys)
            assert f"process {owner.pid}" in line and "--prefix" in line
        assert files == {path: path.read_bytes() for path in files}
        script.main(command(small_jets, tmp_path, "--eval"))
    finally:
        owner.kill()
        owner.join()
    script.main(command(small_jets, tmp_path, "--no-plot", "--load", "--num-epoch", "2"))
    assert "taking over" in capsys.readouterr().err


def test_two_scripts_at_once(small_jets, tmp_path):
    """Of two identical commands that start together, one trains and the other one is refused."""
    argv = [sys.executable, "train_pelican_classifier.py", *command(small_jets, tmp_path, "--no-plot", "--num-epoch=6")]
    runs = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=PATIENCE)[1] for run in runs]
    codes = [run.returncode for run in runs]
    if codes == [0, 0]:
        pytest.skip("the second command began after the first one had ended")
    assert sorted(codes) == [0, 1] and "is being trained by" in errors[codes.index(1)]
