"""Several processes that train one model together, as `torchrun` starts them.

Without torchrun there is one process: gathering, summing and broadcasting return its own values. CPU tensors are sent
with gloo, GPU tensors with NCCL. A process that fails writes the reason into the common store of the processes. A
thread in each other process checks the store, so all end within seconds, even while they wait for the failed one, and
process 0 logs the reason.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from puffin.data.packing import rows_of_events
from puffin.errors import InputError
from puffin.files import remove_unfinished

log = logging.getLogger("puffin")

TIMEOUT = timedelta(hours=1)  # of one exchange: the others wait while process 0 evaluates and writes files
_POLL = 0.2  # s, between two checks of the store
_GRACE = 1.0  # s, time for a process to report its own failure, and for the others to notice it
_FAILURE = "failure"


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return the number of this process on its machine, which is also the number of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this is the process that writes files, logs and progress bars."""
    return rank() == 0


# -- beginning and end ---------------------------------------------------------------------------------------------

_watch: "_Watch | None" = None


def connect() -> None:
    """Join the other processes, if torchrun started several; from then on only process 0 writes to stderr.

    torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; InputError if only some of them are set."""
    global _watch
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    missing = [n for n in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set; start "
            "several processes with torchrun"
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store, me, size = next(rendezvous("env://", timeout=TIMEOUT))
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=me, world_size=size, timeout=TIMEOUT)
    _watch = _Watch(dist.PrefixStore("watch", store))
    _watch.start()
    if me != 0:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")


def disconnect() -> None:
    """Leave the other processes."""
    global _watch
    if _watch is not None:
        _watch.stop()
        _watch = None
        dist.destroy_process_group()


def report_failure(text: str) -> str:
    """Tell the other processes that this one fails; return the cause: `text`, or an earlier report of another one."""
    if _watch is None:
        return text
    _watch.stop()
    cause = _watch.report(text)
    if not is_main():
        time.sleep(_GRACE)  # torchrun ends all when one ends; process 0 must log the cause before
    return cause


class _Watch(threading.Thread):
    """A thread that ends this process when another one has failed.

    The main thread cannot do it, because it waits in an exchange that the failed process will never join."""

    def __init__(self, store: dist.Store):
        super().__init__(name="watch", daemon=True)
        self.store, self._stopped = store, threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(_POLL):
            cause = self.cause()
            if cause and not self._stopped.wait(_GRACE / 2):  # this process may be about to report the same
                log.error(cause)
                remove_unfinished()
                os._exit(1)

    def stop(self) -> None:
        self._stopped.set()

    def cause(self) -> str:
        """Return the reported failure; '' if there is none, or if process 0, which may hold the store, has ended."""
        try:
            return self.store.get(_FAILURE).decode() if self.store.check([_FAILURE]) else ""
        except (RuntimeError, dist.DistError):
            return ""

    def report(self, text: str) -> str:
        """Report a failure; return the first report, which may be from another process."""
        own = text if is_main() else f"process {rank()}: {text}"
        try:
            return self.store.compare_set(_FAILURE, "", own).decode()
        except (RuntimeError, dist.DistError):
            return own


# -- exchanges: every process must call them, in the same order ------------------------------------------------------


def from_main(value):
    """Return the value of process 0 on every process."""
    if num_ranks() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def to_main(value) -> list | None:
    """Return the values of all processes, in the order of their ranks, on process 0; None on the others."""
    if num_ranks() == 1:
        return [value]
    values = [None] * num_ranks() if is_main() else None
    dist.gather_object(value, values, dst=0)
    return values


def total(*numbers: float) -> list[float]:
    """Return each number summed over the processes."""
    sums = torch.tensor(numbers, dtype=torch.float64)
    if num_ranks() > 1:
        dist.all_reduce(sums)
    return sums.tolist()


def gather_events(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows of all processes, sorted by `index` (event of each row), on process 0; {} on the others.

    Keys that start with `particle_` have `lengths` rows per event."""
    if num_ranks() == 1:
        return outputs
    parts = to_main(outputs)
    if parts is None:
        return {}
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    order = joined["index"].argsort()
    rows = {False: order}
    if "lengths" in joined:
        lengths = joined["lengths"]
        rows[True] = rows_of_events((lengths.cumsum(0) - lengths)[order], lengths[order])
    return {key: value[rows[key.startswith("particle_")]] for key, value in joined.items()}


@torch.no_grad()
def share_buffers_(model: nn.Module) -> None:
    """Give every process the buffers (running statistics) of process 0."""
    if num_ranks() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


# -- the training step ---------------------------------------------------------------------------------------------


class _Step(nn.Module):
    """The step of a task as a module, which DistributedDataParallel can wrap; the model keeps its parameter names."""

    def __init__(self, task):
        super().__init__()
        self.model, self._task = task.model, task

    def forward(self, batch):
        return self._task.step(batch)


def training_step(task) -> Callable:
    """Return task.step; with several processes, its backward pass averages the gradients over them.

    All processes get the weights of process 0."""
    if num_ranks() == 1:
        return task.step
    return DistributedDataParallel(_Step(task), forward_sync_buffers=False, gradient_as_bucket_view=True)


def global_loss(loss: Tensor, weight: int, flag: bool) -> tuple[Tensor, Callable[[], list[float]]]:
    """Scale the loss so that the averaged gradients are those of the mean over the items of all processes.

    loss: mean over the `weight` items of this process; weight may be 0. Returns the loss to differentiate, and a
    function that returns [sum of loss x weight, sum of weights, number of flags] over all processes. This function
    waits for the GPU, so call it after backward."""
    if num_ranks() == 1:
        return loss, lambda: [loss.item() * weight, weight, flag]
    local = loss.detach().double() * weight if weight else torch.zeros((), dtype=torch.float64, device=loss.device)
    numbers = torch.stack([local, torch.full_like(local, weight), torch.full_like(local, flag)])
    dist.all_reduce(numbers)
    items = torch.where(numbers[1] > 0, numbers[1], torch.ones_like(numbers[1]))  # all weights may be 0
    return loss * (weight * num_ranks() / items).to(loss.dtype), numbers.tolist
