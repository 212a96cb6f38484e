"""A run owns its files while it trains: a second run of the same name is refused.

The owner writes a small file `.PREFIX.running` into each folder of the run and touches it every 20 s. This works where
`flock` does not, on network file systems for example. The age of the last touch is measured with the clock of the file
system, so the clocks of different machines need not agree.

The files of an owner that has ended without removing them are taken over
  at once if its process is gone from this machine, or if the same job of a batch system has been queued again;
  after five minutes without a touch otherwise.
"""

import contextlib
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from puffin.errors import InputError
from puffin.files import locked

log = logging.getLogger("puffin")

BEAT = 20.0  # s, between two touches
STALE = 300.0  # s without a touch, after which the owner is considered dead
# the job's number, and how often it was queued again, in the environment of batch systems
_JOBS = (("SLURM_JOB_ID", "SLURM_RESTART_COUNT"), ("PBS_JOBID", ""), ("LSB_JOBID", ""), ("JOB_ID", "RESTARTED"))
_held: set[str] = set()  # ids of the locks of this process


class RunLock:
    """A context that owns the files of a run. prefix: name of the run; folders: those in which it writes files.

    InputError if another process owns them; it says who, and since when."""

    def __init__(self, prefix: str, folders: Iterable[Path]):
        self.prefix = prefix
        self.files = [folder / f".{prefix}.running" for folder in sorted(set(folders))]
        self.owner = this_process()
        self._beat: _Beat | None = None

    def __enter__(self) -> "RunLock":
        taken: list[Path] = []
        _held.add(self.owner["id"])
        try:
            for path in self.files:
                _take(path, self.prefix, self.owner)
                taken.append(path)
        except BaseException:
            for path in taken:
                _remove(path, self.owner)
            _held.discard(self.owner["id"])
            raise
        self._beat = _Beat(self.files)
        self._beat.start()
        return self

    def __exit__(self, *error) -> None:
        if self._beat is not None:
            self._beat.stopped.set()
            self._beat.join()
        for path in self.files:
            with contextlib.suppress(OSError):
                _mutex(path).unlink(missing_ok=True)
            _remove(path, self.owner)
        _held.discard(self.owner["id"])

    def check(self) -> None:
        """Raise InputError if another process has taken over the run, because this one was suspended for too long."""
        for path in self.files:
            owner = _read(path)
            if owner is not None and owner.get("id") != self.owner["id"]:
                raise InputError(
                    f"run '{self.prefix}': this process showed no activity for more than {STALE / 60:.0f} minutes, and "
                    f"{_described(owner)} has taken over its files; nothing more is written here"
                )


def this_process() -> dict[str, Any]:
    """Return what tells this process from others, as plain types."""
    job = next(((name, again) for name, again in _JOBS if os.environ.get(name)), None)
    return {
        "id": os.urandom(8).hex(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "process": os.getpid(),
        "started": _start_of_process(os.getpid()),
        "job": f"{job[0]}={os.environ[job[0]]}" if job else "",
        "restart": os.environ.get(job[1], "") if job and job[1] else "",
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _take(path: Path, prefix: str, owner: Mapping[str, Any]) -> None:
    """Create the file of an owner; InputError if another owner is active."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while not _create(path, owner):
        found = _read(path)
        if found is None:
            continue  # its owner has just ended
        age = _age(path)
        reason = "" if age is None else _why_ended(found, owner, age)
        if not reason:
            raise InputError(
                f"run '{prefix}': is being trained by {_described(found)}, which shares the folder {path.parent} "
                f"(last active {age or 0:.0f} s ago); choose another --prefix, or wait until it ends"
            )
        if _remove_dead(path, found):
            log.warning(f"run '{prefix}': taking over from {_described(found)}: {reason}")


def _create(path: Path, owner: Mapping[str, Any]) -> bool:
    """Create the file with its content in one step; return False if it exists.

    A hard link does this everywhere; where there are none, exclusive creation comes close."""
    handle, name = tempfile.mkstemp(prefix=".lock.", dir=path.parent)
    temporary = Path(name)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(owner, file)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            try:
                with open(path, "x", encoding="utf-8") as file:
                    json.dump(owner, file)
            except FileExistsError:
                return False
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _remove_dead(path: Path, found: Mapping[str, Any]) -> bool:
    """Remove the file of a dead owner; return False if another process was faster."""
    with locked(_mutex(path)):
        now = _read(path)
        if now is None or now.get("id") != found.get("id"):
            return False
        path.unlink(missing_ok=True)
        return True


def _mutex(path: Path) -> Path:
    """Return the file that is locked while a dead owner is removed, so that a new owner is never removed instead."""
    return path.with_name(f"{path.name}.lock")


def _why_ended(found: Mapping[str, Any], own: Mapping[str, Any], age: float) -> str:
    """Return why the owner of a file has ended; '' if it may be active."""
    if age > STALE:
        return f"no activity for {age / 60:.0f} minutes"
    if found.get("machine") == own["machine"]:
        process = found.get("process")
        if process == own["process"]:
            return "" if found.get("id") in _held else "it left its files"
        started = _start_of_process(process) if isinstance(process, int) else ""
        if started != found.get("started") or not _exists(process):
            return "its process has ended"
        return ""
    if found.get("host") == own["host"] and _boot(found) != _boot(own):
        return "the machine was started again"
    if own["job"] and found.get("job") == own["job"]:
        again = found.get("restart") != own["restart"] or not own["restart"]
        return "its batch job was queued again" if again else ""
    return ""


def _described(owner: Mapping[str, Any]) -> str:
    job = f" ({owner['job']})" if owner.get("job") else ""
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}{job} since {owner.get('since', '?')}"


def _read(path: Path) -> dict[str, Any] | None:
    """Return the owner of a file; {} if it is not readable, None if there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remove(path: Path, owner: Mapping[str, Any]) -> None:
    found = _read(path)
    if found is not None and found.get("id") == owner["id"]:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _age(path: Path) -> float | None:
    """Return the time [s] since a file was touched, on the clock of its file system; None if it has gone."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".clock.", dir=path.parent) as clock:
            return os.stat(clock.name).st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None


# -- processes -------------------------------------------------------------------------------------------------------


def _machine() -> str:
    """Return a name of the machine, its start, and the container in which process numbers have their meaning."""
    parts = [socket.gethostname(), "", ""]
    with contextlib.suppress(OSError):
        parts[1] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with contextlib.suppress(OSError):
        parts[2] = os.readlink("/proc/self/ns/pid")
    return " ".join(parts)


def _boot(owner: Mapping[str, Any]) -> str:
    return (str(owner.get("machine", "")).split(" ") + ["", ""])[1]


def _start_of_process(process: int) -> str:
    """Return when a process started, in ticks of the system's clock; '' if that is not known, or if it has ended.

    A process that has ended stays in the list of the system until its parent has taken note, in some containers for
    ever."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _exists(process: Any) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


class _Beat(threading.Thread):
    """Touches the files of the owner. A failure is no reason to end a run: the file may just grow too old."""

    def __init__(self, files: list[Path]):
        super().__init__(name="run lock", daemon=True)
        self.files, self.stopped = files, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(BEAT):
            for path in self.files:
                with contextlib.suppress(OSError):
                    os.utime(path)
