"""The start of a run: log, seed and device; the checkpoint that it starts from; the settings that it takes over."""

import logging
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.reading import about_missing
from puffin.errors import InputError
from puffin.runs.paths import RunPaths
from puffin.settings.common import RunSettings
from puffin.settings.flags import Flags
from puffin.settings.roles import MOMENT, TRAINING, Role
from puffin.training import distributed
from puffin.training.logs import start_logging
from puffin.training.memory import keep_freed_memory

log = logging.getLogger("puffin")

NEW, RESUME, EVALUATE, FINETUNE = "new", "resume", "evaluate", "finetune"
# roles that settings get because of what a checkpoint stores: (flags, stored settings) -> role by name
ExtraRoles = Callable[[Flags, Mapping[str, Any]], Mapping[str, Role]]


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    flags: complete, with what the checkpoint determines; purpose: NEW, RESUME, EVALUATE or FINETUNE; run_id: identity
    of the run, which it keeps when it is resumed from its own checkpoint, "" if code without identities wrote that;
    notes: lines for the log about the weights."""

    flags: Flags
    purpose: str
    device: torch.device
    run_id: str
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()

    @property
    def evaluating(self) -> bool:
        """Whether nothing is trained."""
        return self.purpose == EVALUATE

    @property
    def resuming(self) -> bool:
        """Whether an earlier run continues."""
        return self.purpose == RESUME

    @property
    def resuming_another(self) -> bool:
        """Whether the run continues from a checkpoint of another run, given by --loadfile."""
        return self.resuming and not is_own(self.flags, self.checkpoint)

    def noting(self, *lines: str) -> "Start":
        """Return the same with further lines for the log."""
        return replace(self, notes=(*self.notes, *lines))


def start(
    flags: Flags,
    networks: tuple[str, ...],
    hint: Callable[[Checkpoint], str] = lambda checkpoint: "",
    roles: ExtraRoles = lambda flags, stored: {},
) -> Start:
    """Open the log, set the seed, choose the device, read the checkpoint that the flags name, take over its settings.

    networks: kinds of checkpoints that the script can use (checkpoint.py); hint: ends the message about another kind.
    No file of an earlier run is touched yet."""
    start_logging(flags["log_level"])
    if flags["seed"] < 0:
        flags = flags.changed(seed=distributed.from_main(random.SystemRandom().randrange(2**31)))
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    device = choose_device(flags["device"])
    if device.type == "cpu":
        keep_freed_memory()
    make_reproducible(flags["reproducible"])
    torch.manual_seed(flags["seed"])
    purpose, path = _where_from(flags)
    new_id = distributed.from_main(os.urandom(8).hex())
    if path is None:
        return Start(flags, purpose, device, new_id)
    checkpoint = Checkpoint.read(path)
    if purpose == RESUME:
        checkpoint = _own_continuation(flags, checkpoint)
    checkpoint.expect(*networks, hint=hint(checkpoint) if checkpoint.network not in networks else "")
    stored = checkpoint.settings
    extra = dict(roles(flags, stored))
    if purpose == RESUME:
        if checkpoint.num_processes != distributed.num_ranks():
            extra["batch_size"] = TRAINING  # the minibatches differ anyway
        flags = flags.starting_from(stored, purpose, checkpoint.path, extra)
        _check_paths(flags, "datadir", "testfile")
        # where the weights came from; the file is not read again
        flags = flags.changed(loadfile=flags["loadfile"] or stored.get("loadfile", ""))
        make_reproducible(flags["reproducible"])
    else:
        if "datadir" in flags.given:
            extra["testfile"] = MOMENT  # the test file of the training is not meant then
        flags = flags.starting_from(stored, purpose, checkpoint.path, extra)
        if purpose == EVALUATE:
            _check_paths(flags, "testfile" if flags["testfile"] else "datadir")
    run_id = checkpoint.run_id if purpose == RESUME and is_own(flags, checkpoint) else new_id
    return Start(flags, purpose, device, run_id, checkpoint)


def is_own(flags: Flags, checkpoint: Checkpoint | None) -> bool:
    """Return whether a checkpoint is a file of the run itself: its last or its best one."""
    paths = RunPaths.of(flags.part(RunSettings))
    own = (paths.checkpoint, paths.best)
    return checkpoint is not None and any(p.exists() and p.samefile(checkpoint.path) for p in own)


def make_reproducible(wanted: bool) -> None:
    """Use deterministic algorithms only, if wanted."""
    torch.use_deterministic_algorithms(wanted)


def _where_from(flags: Flags) -> tuple[str, Path | None]:
    """Return the purpose of the run, and the checkpoint that the flags name; None for a new network."""
    paths = RunPaths.of(flags.part(RunSettings))
    if flags["load"] and (flags["task"] == "eval" or flags["test"]):
        other = "--eval" if flags["task"] == "eval" else "--test"
        raise InputError(f"--load resumes a training, and {other} trains nothing; use only one of them")
    purpose = EVALUATE if flags["task"] == "eval" else RESUME if flags["load"] else FINETUNE
    if flags["loadfile"]:
        return purpose, Path(flags["loadfile"])
    if purpose == EVALUATE:
        if not (paths.best.exists() or paths.checkpoint.exists()):
            raise InputError(
                f"--eval: {about_missing(paths.best)}; check --prefix and --modeldir, or give a checkpoint with "
                "--loadfile"
            )
        return purpose, paths.best if paths.best.exists() else paths.checkpoint
    if purpose == RESUME:
        if not paths.checkpoint.exists():
            raise InputError(
                f"--load: {about_missing(paths.checkpoint)}; start the run without --load, or check --prefix and "
                "--modeldir"
            )
        return purpose, paths.checkpoint
    if flags["test"] and paths.best.exists():
        return purpose, paths.best
    return NEW, None


def _own_continuation(flags: Flags, checkpoint: Checkpoint) -> Checkpoint:
    """Return the run's own last checkpoint if the same command wrote it after it had started from --loadfile.

    That is a job which was queued again: it resumes, and does not start from --loadfile once more."""
    own_path = RunPaths.of(flags.part(RunSettings)).checkpoint
    if flags["loadfile"] and own_path.exists():
        own = Checkpoint.read(own_path)
        if own.settings.get("loadfile") == flags["loadfile"]:
            return own
    return checkpoint


def _check_paths(flags: Flags, *names: str) -> None:
    """Raise InputError if the data of the run that is resumed are not where they were."""
    for name in names:
        paths = flags[name]
        for path in [paths] if isinstance(paths, str) else paths:
            if name not in flags.given and not Path(path).exists():
                raise InputError(
                    f"--{name}: the run was started with {path}, which does not exist any more; give its new place"
                )


def choose_device(name: str) -> torch.device:
    """Return the device that was asked for, a GPU of its own for each process; InputError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        found = "found" if name == "cuda" else "no CUDA device found"
        log.info(f"device: {name} ({found}; choose with --cpu, --cuda or --mps)")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[name]
    if not available:
        raise InputError(f"--{name}: no such device is available to PyTorch {torch.__version__}; use --cpu")
    if name != "cuda" or distributed.num_ranks() == 1:
        return torch.device(name)
    number = distributed.local_rank()
    if number >= torch.cuda.device_count():
        raise InputError(
            f"--nproc_per_node: expected at most one process for each of the {torch.cuda.device_count()} GPUs, got more"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
