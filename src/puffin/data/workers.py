"""Worker processes that read batches for the training.

A worker sends its batches through a socket, in pieces of at most PIECE bytes, so it needs no shared memory, of which
containers have only 64 MB. Each worker has a socket of its own: when a worker dies, its socket closes, and the
training ends with the reason instead of waiting for ever.
"""

import atexit
import functools
import os
import pickle
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch
from torch import Tensor

from puffin.data.parallel import exit_with_parent
from puffin.errors import InputError, first_line

PIECE = 8 * 2**20  # bytes that are sent at once
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_running: set[BaseProcess] = set()  # workers of this process


class WorkerPool:
    """Read batches of a data set in worker processes, in order.

    `read(requests)` yields dataset.__getitems__(numbers) of each request, a list of event numbers. Each worker reads
    one batch ahead. The workers start with the first `read`, and stay until `close`, or until this process ends.
    Unless processes are forked, each worker has its own copy of data in memory.
    An error of a worker is raised here. InputError if a worker dies or cannot be started."""

    def __init__(self, dataset, num_workers: int):
        self._dataset, self._num_workers = dataset, num_workers
        self._workers: list[Worker] = []

    def read(self, requests: Iterable[list[int]]) -> Iterator:
        """Yield the batch of each request, in order. Ending an iteration early ends the workers too."""
        requests = iter(requests)
        busy: deque[Worker] = deque()
        try:
            if not self._workers:
                self._start()
            for worker in self._workers:
                self._request(worker, requests, busy)
            while busy:
                batch = self._receive(busy[0])
                self._request(busy.popleft(), requests, busy)
                yield batch
        finally:
            if busy:  # a worker failed, or the iteration was ended while workers read
                self.close()

    def close(self) -> None:
        """End the workers; another `read` starts new ones."""
        end_workers([worker.process for worker in self._workers])
        for worker in self._workers:
            worker.connection.close()
        self._workers = []

    def _start(self) -> None:
        context = get_context()
        forked = context.get_start_method() == "fork"
        data = b"" if forked else pickle.dumps(self._dataset)  # multiprocessing would use shared memory for the tensors
        # a worker that is just starting must survive the signals of a terminal or a batch system, too
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for _ in range(self._num_workers):
                ours, its = Pipe()
                process = context.Process(target=_serve, args=(its, self._dataset if forked else None), daemon=True)
                process.start()
                its.close()  # the connection ends with the worker if no other process has this side of it
                _running.add(process)
                self._workers.append(Worker(process, ours))
        except OSError as error:
            self.close()
            raise InputError(
                f"--num-workers {self._num_workers}: cannot start the workers ({first_line(error)}). Use fewer "
                f"workers, or --num-workers 0."
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        _end_workers_at_exit()
        weakref.finalize(self, _end_workers_of, os.getpid(), [w.process for w in self._workers]).atexit = False
        for worker in [] if forked else self._workers:
            try:
                worker.connection.send_bytes(data)
            except OSError as error:
                raise self._death(worker) from error

    def _request(self, worker: "Worker", requests: Iterator[list[int]], busy: deque) -> None:
        """Send the next request, if there is one. The worker must be idle: if both sides sent, both could wait."""
        numbers = next(requests, None)
        if numbers is not None:
            busy.append(worker)
            try:
                worker.connection.send(numbers)
            except OSError as error:
                raise self._death(worker) from error

    def _receive(self, worker: "Worker"):
        try:
            answer = receive(worker.connection)
        except (EOFError, OSError) as error:
            raise self._death(worker) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _death(self, worker: "Worker") -> InputError:
        """Return the error that says how a worker ended."""
        process = worker.process
        process.join(10)
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit status {code}"
        reason = " (out of memory?)" if code == -signal.SIGKILL else ""
        return InputError(
            f"a data worker (process {process.pid}) {how}{reason}. Use fewer than --num-workers {self._num_workers}, "
            f"or --num-workers 0; a training continues from its last checkpoint with --load."
        )


class Worker(NamedTuple):
    """A worker process and the connection to it."""

    process: BaseProcess
    connection: Connection


def end_workers(processes: Iterable[BaseProcess]) -> None:
    """Kill workers, which only read, and wait for their end."""
    running = [process for process in processes if process in _running]
    for process in running:
        process.kill()
    for process in running:
        process.join()
        _running.discard(process)


def _end_workers_of(owner: int, processes: list[BaseProcess]) -> None:
    if os.getpid() == owner:  # a forked worker has a copy of the pool, but not its workers
        end_workers(processes)


@functools.cache
def _end_workers_at_exit() -> None:
    # at exit Python sends the workers SIGTERM, which they ignore, and would wait for them forever
    atexit.register(lambda: end_workers(list(_running)))


# -- in the worker ---------------------------------------------------------------------------------------------------


def _serve(connection: Connection, dataset) -> None:
    """Answer requests until the parent ends. dataset: None if the parent sends it."""
    for s in _SIGNALS:  # they reach all processes, but the parent needs its workers until it has saved
        signal.signal(s, signal.SIG_IGN)
    exit_with_parent()
    torch.set_num_threads(1)
    try:
        if dataset is None:
            dataset = pickle.loads(connection.recv_bytes())
        while True:
            send(connection, _answer(dataset, connection.recv()))
    except (EOFError, OSError):
        return  # the parent has ended, or the pool was closed


def _answer(dataset, numbers: list[int]):
    try:
        return dataset.__getitems__(numbers)
    except InputError as error:
        return error
    except Exception as error:  # raised by the parent
        where = traceback.extract_tb(error.__traceback__)[-1]
        return RuntimeError(f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})")


# -- the messages ----------------------------------------------------------------------------------------------------


def send(connection: Connection, message) -> None:
    """Send an exception, or a batch: a description of its fields, then the bytes of each tensor in pieces."""
    if isinstance(message, Exception):
        connection.send((message, {}, {}))
        return
    fields = vars(message)
    tensors = {name: x.contiguous() for name, x in fields.items() if isinstance(x, Tensor)}
    others = {name: x for name, x in fields.items() if name not in tensors}
    connection.send((type(message), others, {name: (x.dtype, x.shape) for name, x in tensors.items()}))
    for x in tensors.values():
        _transfer(os.write, connection.fileno(), x)


def receive(connection: Connection):
    """Receive what `send` sent; EOFError or OSError if the other side has ended."""
    kind, others, described = connection.recv()
    if isinstance(kind, Exception):
        return kind
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in described.items()}
    for x in tensors.values():
        _transfer(_read_into, connection.fileno(), x)
    return kind(**others, **tensors)


def _transfer(move, handle: int, x: Tensor) -> None:
    """Call move(handle, piece) for the bytes of a contiguous tensor, until all are moved."""
    data = x.flatten().view(torch.uint8).numpy().data
    start = 0
    while start < len(data):
        start += move(handle, data[start : start + PIECE])


def _read_into(handle: int, piece: memoryview) -> int:
    number = os.readv(handle, [piece])
    if number == 0:
        raise EOFError
    return number
