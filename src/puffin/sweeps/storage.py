"""Storages of studies: a journal file, SQLite, or PostgreSQL for many machines.

Only libpq handles passwords: it reads PGPASSWORD, a pgpass file or a service file when it connects. So no password can
get into a log, a study or a command line.
"""

import contextlib
import functools
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage  # Optuna wraps every RDBStorage in it
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file  # the lock that Optuna holds while it appends
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from puffin.errors import InputError, first_line

log = logging.getLogger("puffin")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # s, between two attempts to reach a database
# with these options a broken network is noticed within about a minute
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
# errors that waiting does not solve
_PERMANENT = (
    "no password",
    "authentication failed",
    "pg_hba",
    "does not exist",
    "permission denied",
    "definition of service",
)
_ENTRY = b'{"op_code":'  # beginning of every line of a journal
_PASSWORDS = (
    "put it into PGPASSWORD, a pgpass file (~/.pgpass or PGPASSFILE) or a service file, as "
    "docs/search_hyperparameters.md shows"
)


class StorageLost(InputError):
    """The database could not be reached for longer than --patience."""


def postgresql_url(host: str, port: int | None, user: str | None, database: str) -> str:
    """Make the URL of a database; libpq sets what is None (PGPORT, PGUSER, ...). InputError if user has a password."""
    if ":" in (user or ""):
        raise InputError(f"--user: expected a name without a colon. Do not pass a password here: {_PASSWORDS}.")
    return sqlalchemy.URL.create("postgresql", user, None, host, port, database).render_as_string()


def check_url(storage: str, flag: str) -> str:
    """Return the storage if it is a journal file or a URL of SQLite or PostgreSQL without a password, else InputError.

    flag: name of the flag, for the message, which repeats only plain file names, as the text may contain a password."""
    if "://" not in storage:
        if Path(storage).suffix in (".db", ".sqlite", ".sqlite3"):
            return f"sqlite:///{storage}"
        if Path(storage).suffix not in (".journal", ".log"):
            got = f"got {storage!r}" if re.fullmatch(r"[\w./-]+", storage) else "got something else"
            raise InputError(
                f"{flag}: expected FILE.journal, FILE.db, sqlite:///FILE or postgresql://USER@HOST:PORT/DATABASE, {got}"
            )
        return storage
    try:
        url = sqlalchemy.make_url(storage)
        backend = url.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise InputError(f"{flag}: not a URL such as postgresql://USER@HOST:PORT/DATABASE") from error
    if url.password is not None or "password" in url.query:
        raise InputError(f"{flag}: all users of the machine can see a password on the command line; {_PASSWORDS}")
    if backend not in ("sqlite", "postgresql"):
        raise InputError(f"{flag}: expected a journal file, sqlite:/// or postgresql://, got {backend}://")
    return storage


def open_storage(storage: str, patience: float) -> BaseStorage:
    """Open a storage that was checked with check_url; InputError if it cannot be opened.

    patience: time [s] for which operations are retried if the database does not answer, once it has been opened."""
    if "://" not in storage:
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        try:
            return JournalStorage(_Journal(storage))
        except (OSError, ValueError) as error:
            raise InputError(f"{storage}: not a readable journal of Optuna ({first_line(error)})") from error
    backend = _open_database(storage)
    if backend.engine.dialect.name == "sqlite":
        _lock_at_begin(backend.engine)
    return _PatientStorage(backend, describe(storage), patience)


def _open_database(storage: str) -> RDBStorage:
    """Connect to a database and create its tables if necessary; InputError if that fails."""
    url = sqlalchemy.make_url(storage)
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": 30}}
    else:
        if url.drivername == "postgresql":  # the default driver depends on the version of SQLAlchemy
            url = url.set(drivername="postgresql+psycopg2")
        # two threads use the database: one runs trials, the other sends heartbeats
        options = {"connect_args": _POSTGRESQL, "pool_pre_ping": True, "pool_size": 1, "max_overflow": 1}
    for attempt in range(6):
        try:
            return RDBStorage(url.render_as_string(), engine_kwargs=options)
        except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
            failure = error if isinstance(error, DBAPIError) else error.__cause__
            # workers that start at the same time create the same tables
            conflicts = ("already exists", "duplicate", "unique", "locked")
            if attempt == 5 or not any(text in str(failure).lower() for text in conflicts):
                raise InputError(f"{describe(storage)}: {_explained(failure)}") from error
            time.sleep(0.2 * 2**attempt)
        except ImportError as error:
            raise InputError(
                f"{describe(storage)}: the database driver is not installed: pip install -r requirements.txt"
            ) from error
        except RuntimeError as error:  # tables of another version of Optuna
            raise InputError(f"{describe(storage)}: {first_line(error)}") from error
    raise AssertionError("the last attempt returns or raises")


def describe(storage: str) -> str:
    """Return the name of a storage for messages, without the password of a URL."""
    return sqlalchemy.make_url(storage).render_as_string(hide_password=True) if "://" in storage else storage


def copy_study(name: str, source: str, target: str) -> int:
    """Copy a study to another storage; returns its number of trials.

    InputError if the source does not have the study, or if the target already has it."""
    file = source.removeprefix("sqlite:///")
    if "://" not in file and not Path(file).exists():
        raise InputError(f"{file}: no such file")
    from_storage = open_storage(source, 0)
    found = [s.study_name for s in from_storage.get_all_studies()]
    if name not in found:
        raise InputError(f"{describe(source)}: no study '{name}' (has: {', '.join(found) or 'none'})")
    to_storage = open_storage(target, 0)
    try:
        optuna.copy_study(from_study_name=name, from_storage=from_storage, to_storage=to_storage)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise InputError(f"{describe(target)}: already has a study '{name}', which was not changed") from error
    return len(optuna.load_study(study_name=name, storage=to_storage).get_trials(deepcopy=False))


class _Journal(JournalFileBackend):
    """Optuna's journal, except that an incomplete last line is removed before the next one is appended.

    A full disk or a crash can leave such a line. Optuna would append to it, and could then no longer read the file."""

    def append_logs(self, logs: list[dict]) -> None:
        """Append one line per entry: all of them, or none."""
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs).encode()
        with get_lock_file(self._lock):
            self._remove_incomplete_line()
            with open(self._file_path, "ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Read the entries from a number on; InputError if one of them is none."""
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise InputError(f"{self._file_path}: not a readable journal of Optuna ({first_line(error)})") from error

    def _remove_incomplete_line(self) -> None:
        with open(self._file_path, "rb+") as file:
            if not file.seek(0, os.SEEK_END):
                return
            file.seek(-1, os.SEEK_END)
            if file.read() == b"\n":
                return
            file.seek(0)
            text = file.read()
            end = text.rfind(b"\n") + 1  # of the last complete line
            if text[end:][: len(_ENTRY)] != _ENTRY[: len(text) - end]:
                raise InputError(f"{self._file_path}: not a journal of Optuna")
            file.truncate(end)
        log.warning(f"{self._file_path}: removed the last line, which was incomplete (was the disk full?)")


def _lock_at_begin(engine: sqlalchemy.Engine) -> None:
    """Make every transaction of SQLite lock the file at its beginning.

    Otherwise two workers can both read that a trial is waiting, and both take it."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def no_implicit_begin(connection, record):
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # close connections without these listeners


def _explained(error: Exception) -> str:
    """Describe a database error in one line, with what to do about it."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    if "password" in text or "authentication" in text:
        return f"{text}; the password is wrong or missing: {_PASSWORDS}"
    if "onnect" in text or "translate host name" in text:
        return f"{text}; is the server running, and are --host and --port correct?"
    return text


def _database_error(error: BaseException) -> DBAPIError | None:
    """Return the connection failure, which may be temporary, among an exception and its causes, or None."""
    while error is not None:
        if isinstance(error, (OperationalError, InterfaceError)) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            return error
        error = error.__cause__
    return None


class _PatientStorage(_CachedStorage):
    """Optuna's storage of a database, except that every operation is retried while the database does not answer.

    An operation is done twice if only its answer was lost. At worst this leaves an empty trial, which the other
    workers treat like the trial of a dead worker. name: for messages; patience: time [s] after which an operation
    fails; outages: number of failed attempts."""

    def __init__(self, backend: RDBStorage, name: str, patience: float):
        super().__init__(backend)
        self.name, self.patience, self.outages = name, patience, 0


def _patient(operation):
    """Make an operation of a storage that is retried while the database does not answer."""

    @functools.wraps(operation)
    def retried(self, *args, **kwargs):
        start, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                result = operation(self, *args, **kwargs)
                if pause > _FIRST_PAUSE:
                    log.info(f"{self.name}: answers again after {time.monotonic() - start:.0f} s")
                return result
            except Exception as error:
                failure = _database_error(error)
                if failure is None or isinstance(error, StorageLost):
                    raise
                text, waited = _explained(failure), time.monotonic() - start
                if waited + pause > self.patience or any(permanent in text for permanent in _PERMANENT):
                    raise StorageLost(
                        f"{self.name}: connection lost, and not back after {waited:.0f} s: {text}"
                    ) from error
                if pause == _FIRST_PAUSE:
                    log.warning(f"{self.name}: {text}; trying again for {self.patience:.0f} s")
                self.outages += 1
            with contextlib.suppress(Exception):
                self._backend.engine.dispose()  # the pool may have more broken connections
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    return retried


for _name in BaseStorage.__abstractmethods__:
    setattr(_PatientStorage, _name, _patient(getattr(_CachedStorage, _name)))
