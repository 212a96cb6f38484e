"""Workers that read batches: what they send, how they end, and that they need no shared memory."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe, active_children, get_context

import h5py
import numpy as np
import pytest
import torch

from puffin.data import workers
from puffin.data.packing import CloudBatch, JetBatch
from puffin.data.workers import WorkerPool, receive, send
from puffin.errors import InputError
from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until


class Numbers:
    """A data set: event k is a jet of one particle with energy k. The function `before` is called with each request."""

    def __init__(self, before=lambda numbers: None):
        self.before = before

    def __getitems__(self, numbers):
        self.before(numbers)
        momenta = torch.tensor(numbers, dtype=torch.float32)[:, None] * torch.ones(4)
        return JetBatch(momenta, torch.ones(len(numbers), dtype=torch.int64))


def energies(batches) -> list:
    return [batch.fourmomenta[:, 0].tolist() for batch in batches]


def die(numbers) -> None:
    """Do what the kernel does to a process that takes too much memory."""
    if numbers == [2]:
        os.kill(os.getpid(), signal.SIGKILL)


def refuse(numbers) -> None:
    raise InputError("jets.h5: bad")


def fail(numbers) -> None:
    raise OSError("no such disk")


@pytest.mark.parametrize("number", [1, 2, 5])
def test_batches_come_in_order(number):
    """Two epochs with the same processes. Breaks if answers are taken from the wrong worker, or workers start anew."""
    pool, requests = WorkerPool(Numbers(), number), [[k, k + 1] for k in range(4)]
    assert energies(pool.read(requests)) == requests
    first = [worker.process.pid for worker in pool._workers]
    assert energies(pool.read(requests)) == requests and energies(pool.read([])) == []
    assert [worker.process.pid for worker in pool._workers] == first and len(first) == number
    pool.close()
    assert not set(first) & {process.pid for process in active_children()}


def test_an_iteration_that_is_left_does_not_spoil_the_next():
    """Breaks if the answers to the first requests are taken for those to the second."""
    pool = WorkerPool(Numbers(), 2)
    assert energies([next(pool.read([[k] for k in range(9)]))]) == [[0]]
    assert energies(pool.read([[7], [8]])) == [[7], [8]]
    pool.close()


def test_workers_end_with_their_pool():
    """A sweep makes many loaders in one process."""
    pool = WorkerPool(Numbers(), 2)
    list(pool.read([[1]]))
    pids = {worker.process.pid for worker in pool._workers}
    del pool
    assert not pids & {process.pid for process in active_children()}


@pytest.mark.parametrize(
    "before, error, text",
    [
        (refuse, InputError, r"^jets.h5: bad$"),
        (fail, RuntimeError, r"^OSError: no such disk \(test_workers.py:\d+\)$"),
        (
            die,
            InputError,
            r"process \d+\) was killed by SIGKILL \(out of memory\?\). Use fewer than --num-workers 2, or",
        ),
        (lambda numbers: os._exit(3), InputError, "ended with exit status 3"),
    ],
)
def test_failures(before, error, text):
    """A worker that fails or dies ends the iteration with the reason, at once; the pool can be used again."""
    pool = WorkerPool(Numbers(before), 2)
    with pytest.raises(error, match=text):
        list(pool.read([[0], [1], [2], [3]]))
    assert pool._workers == []


def test_death_in_the_middle_of_a_batch(monkeypatch):
    """Breaks if the parent goes on waiting for the rest of the bytes."""

    def transfer(move, handle, x):
        if move is os.write:
            os.write(handle, bytes(5))
            os._exit(1)
        return original(move, handle, x)

    original = workers._transfer
    monkeypatch.setattr(workers, "_transfer", transfer)
    with pytest.raises(InputError, match="ended with exit status 1"):
        list(WorkerPool(Numbers(), 1).read([[1]]))


def test_signals_do_not_end_workers_that_start():
    """A batch system sends SIGTERM to all processes. Breaks if workers ignore it only some time after their start."""
    pool = WorkerPool(Numbers(), 2)
    batches = pool.read([[k] for k in range(6)])
    pool._start()
    for worker in pool._workers:
        os.kill(worker.process.pid, signal.SIGTERM)
        os.kill(worker.process.pid, signal.SIGINT)
    assert energies(batches) == [[k] for k in range(6)]
    pool.close()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_messages_come_in_pieces(monkeypatch):
    """A batch of 24 MB with every kind of field, in pieces of at most 8 MB."""
    number, sizes, write = 10**6, [], os.write
    batch = CloudBatch(
        points=torch.rand(number, 4)[:, :4],
        lengths=torch.tensor([number]),
        semantic=torch.arange(2 * number)[::2],  # not contiguous
        row=None,
        index=torch.zeros(0, dtype=torch.int64),
        skipped=3,
    )
    monkeypatch.setattr(os, "write", lambda handle, data: sizes.append(len(data)) or write(handle, data))
    ours, its = Pipe()
    thread = threading.Thread(target=send, args=(its, batch))
    thread.start()
    got = receive(ours)
    thread.join()
    assert isinstance(got, CloudBatch) and (got.row, got.skipped) == (None, 3)
    for name in ("points", "lengths", "semantic", "index"):
        assert torch.equal(getattr(got, name), getattr(batch, name)), name
    assert max(sizes) == workers.PIECE == 8 * 2**20 and sum(sizes) == 24 * number + 8


SCRIPT = """
import os, sys, multiprocessing
import h5py, numpy as np
from puffin.data.jets import JetDataset, JetSelection
from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches
if __name__ == "__main__":
    path, method, in_memory, what = sys.argv[1:]
    multiprocessing.set_start_method(method)
    dataset = JetDataset([path], JetSelection(in_memory=in_memory == "memory"))
    batches = EpochBatches(len(dataset), 1000, False, chunk_of=dataset.chunk_of_events())
    loader = make_loader(dataset, batches, 2, False)
    iterator = iter(loader)
    events = next(iterator).index.tolist()
    workers = multiprocessing.active_children()
    print(*(w.pid for w in workers), flush=True)
    if what == "all":
        for batch in iterator:
            events += batch.index.tolist()
        assert events == list(range(len(dataset)))
    if what == "wait":
        sys.stdin.read()
    sys.kept = iterator
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A script that reads 4000 jets of 1000 particles (64 MB) with two workers, and how to call it."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "read.py").write_text(SCRIPT, encoding="utf-8")
    with h5py.File(folder / "jets.h5", "w") as file:
        jets = np.zeros((4000, 1000, 4), np.float32) + np.array([2, 1, 0, 0], np.float32)
        file.create_dataset("Pmu", data=jets, chunks=(100, 1000, 4), compression="gzip", compression_opts=1)
        file["is_signal"] = np.arange(4000) % 2
    return [sys.executable, str(folder / "read.py"), str(folder / "jets.h5")]


@pytest.mark.parametrize("method, what", [("fork", "some"), ("fork", "all"), ("spawn", "all"), ("forkserver", "some")])
def test_ends_quietly(script, method, what):
    """Nothing on stderr, whether the epoch was read to its end or not. Breaks if Python waits for the workers at exit,
    or if their end is reported as a failure."""
    done = subprocess.run([*script, method, "stream", what], cwd=ROOT, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("method, data", [("fork", "stream"), ("forkserver", "memory")])
def test_needs_no_shared_memory(script, method, data):
    """A real /dev/shm of 64 kB, less than a batch; a container has 64 MB, less than a group of events."""
    isolated = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run([*isolated, mount], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine does not let users mount a file system of their own")
    command = [*isolated, f'{mount} && exec "$@"', "sh", *script, method, data, "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_workers_end_when_the_training_is_killed(script):
    """Also while they wait to send the next batch."""
    parent = subprocess.Popen(
        [*script, "fork", "stream", "wait"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pids = list(map(int, parent.stdout.readline().split()))
    parent.kill()
    assert len(pids) == 2
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert parent.communicate()[1] == ""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_data_set_that_cannot_be_sent(monkeypatch):
    """Breaks if such an error leaves workers behind."""
    monkeypatch.setattr(workers, "get_context", lambda: get_context("forkserver"))
    pool = WorkerPool(Numbers(), 1)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        list(pool.read([[1]]))
    assert pool._workers == []
