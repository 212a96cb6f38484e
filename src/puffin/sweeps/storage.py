"""Where studies are kept: a journal file, SQLite, or PostgreSQL for many machines.

Passwords are libpq's business: it reads PGPASSWORD, a pgpass file or a service file when it connects.  None passes
through here, so none can get into a log, a study or a command line.
"""

import contextlib
import functools
import json
import logging
import os
import re
import time
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage  # what Optuna puts around every RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file  # what Optuna's own appending holds
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from puffin.errors import InputError, first_line

log = logging.getLogger("puffin")

_LONGEST_PAUSE = 5.0  # s, between two attempts to reach a database
# a broken network is noticed within about a minute
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_HOPELESS = (
    "no password",
    "authentication failed",
    "pg_hba",
    "does not exist",
    "permission denied",
    "definition of service",
)
_ENTRY = b'{"op_code":'  # how every line of a journal begins
_PASSWORDS = (
    "put it into PGPASSWORD, a pgpass file (~/.pgpass or PGPASSFILE) or a service file, as docs/SWEEPS.md shows"
)


class StorageLost(InputError):
    """The database could not be reached for longer than the sweep was told to wait."""


def postgresql_url(host: str, port: int | None, user: str | None, database: str) -> str:
    """Return the URL of a database; libpq fills in what is None (PGPORT ...). InputError if user holds a password."""
    if ":" in (user or ""):
        raise InputError(f"--user: expected a name without a colon; a password does not belong here: {_PASSWORDS}")
    return sqlalchemy.URL.create("postgresql", user, None, host, port, database).render_as_string()


def check_url(storage: str, flag: str) -> str:
    """The storage, if it is a journal file or a URL of SQLite or PostgreSQL without a password; else InputError.

    The message repeats nothing but a plain file name: there may be a password in it."""
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
        raise InputError(f"{flag}: a password on the command line is seen by all users of the machine; {_PASSWORDS}")
    if backend not in ("sqlite", "postgresql"):
        raise InputError(f"{flag}: expected a journal file, sqlite:/// or postgresql://, got {backend}://")
    return storage


def open_storage(storage: str, patience: float) -> BaseStorage:
    """A storage that check_url has passed.  InputError if it cannot be opened.

    patience: seconds for which a database that does not answer is asked again, once it has been reached."""
    if "://" not in storage:
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        try:
            return JournalStorage(_Journal(storage))
        except (OSError, ValueError) as error:
            raise InputError(f"{storage}: not a readable journal of Optuna ({first_line(error)})") from error
    url = sqlalchemy.make_url(storage)
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": 30}}
    else:
        if url.drivername == "postgresql":  # which driver that means differs between versions of SQLAlchemy
            url = url.set(drivername="postgresql+psycopg2")
        # two threads talk to the database: the trials, and the signs of life
        options = {"connect_args": _POSTGRESQL, "pool_pre_ping": True, "pool_size": 1, "max_overflow": 1}
    for attempt in range(6):
        try:
            backend = RDBStorage(url.render_as_string(), engine_kwargs=options)
            break
        except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
            failure = error if isinstance(error, DBAPIError) else error.__cause__
            # workers that start together all create the tables
            if attempt == 5 or not any(
                sign in str(failure).lower() for sign in ("already exists", "duplicate", "unique", "locked")
            ):
                raise InputError(f"{describe(storage)}: {_explained(failure)}") from error
            time.sleep(0.2 * 2**attempt)
        except ImportError as error:
            raise InputError(f"{describe(storage)}: its driver is missing; pip install -r requirements.txt") from error
        except RuntimeError as error:  # tables of another version of Optuna
            raise InputError(f"{describe(storage)}: {first_line(error)}") from error
    if url.get_backend_name() == "sqlite":
        _take_turns(backend.engine)
    return _PatientStorage(backend, describe(storage), patience)


def describe(storage: str) -> str:
    """A storage's name for messages; of a URL never a password."""
    return sqlalchemy.make_url(storage).render_as_string(hide_password=True) if "://" in storage else storage


def copy_study(name: str, source: str, target: str) -> int:
    """Copy a study to another storage; return its number of trials.

    InputError if the source has no such study, or if the target already has one.
    """
    file = source.removeprefix("sqlite:///")
    if "://" not in file and not Path(file).exists():
        raise InputError(f"{file}: no such file")
    from_storage = open_storage(source, 0)
    there = [s.study_name for s in from_storage.get_all_studies()]
    if name not in there:
        raise InputError(f"{describe(source)}: no study '{name}' (has: {', '.join(there) or 'none'})")
    to_storage = open_storage(target, 0)
    try:
        optuna.copy_study(from_study_name=name, from_storage=from_storage, to_storage=to_storage)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise InputError(f"{describe(target)}: already has a study '{name}'; it stays as it is") from error
    return len(optuna.load_study(study_name=name, storage=to_storage).get_trials(deepcopy=False))


class _Journal(JournalFileBackend):
    """Optuna's journal, which survives a torn last line.

    A full disk or a crashed machine leaves one, and what is appended to it could never be read again."""

    def append_logs(self, logs: list[dict]) -> None:
        """A line for each, all or none."""
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs).encode()
        with get_lock_file(self._lock):
            self._cut_torn_line()
            with open(self._file_path, "ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())

    def _cut_torn_line(self) -> None:
        with open(self._file_path, "rb+") as file:
            if not file.seek(0, os.SEEK_END):
                return
            file.seek(-1, os.SEEK_END)
            if file.read() == b"\n":
                return
            file.seek(0)
            text = file.read()
            whole = text.rfind(b"\n") + 1
            if text[whole:][: len(_ENTRY)] != _ENTRY[: len(text) - whole]:
                raise InputError(f"{self._file_path}: not a journal of Optuna")
            file.truncate(whole)
        log.warning(f"{self._file_path}: its last line was torn (was the disk full?); left out")


def _take_turns(engine: sqlalchemy.Engine) -> None:
    """Have every transaction of SQLite lock the file at its beginning.

    As it is, two workers may both read that a trial waits, and both take it."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def no_implicit_begin(connection, record):
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before


def _explained(error: Exception) -> str:
    """A database error in one line, with what to do about it."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    if "password" in text or "authentication" in text:
        return f"{text}; the password is wrong or missing: {_PASSWORDS}"
    if "onnect" in text or "translate host name" in text:
        return f"{text}; is the server running, and are --host and --port right?"
    return text


def _database_error(error: BaseException) -> DBAPIError | None:
    """The failure of a connection in an exception or its causes, which may pass; None for other errors."""
    while error is not None:
        if isinstance(error, (OperationalError, InterfaceError)) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            return error
        error = error.__cause__
    return None


class _PatientStorage(_CachedStorage):
    """Optuna's storage of a database, every operation of which is tried again while the database does not answer.

    An operation that had been done when its answer was lost is done twice: at worst an empty trial stays behind, which
    the other workers take for one of a dead worker.  outages: how often the database was away."""

    def __init__(self, backend: RDBStorage, name: str, patience: float):
        super().__init__(backend)
        self.name, self.patience, self.outages = name, patience, 0


def _patient(operation):
    @functools.wraps(operation)
    def tried_again(self, *args, **kwargs):
        start, pause = time.monotonic(), 0.2
        while True:
            try:
                result = operation(self, *args, **kwargs)
                if pause > 0.2:
                    log.info(f"{self.name}: answers again after {time.monotonic() - start:.0f} s")
                return result
            except Exception as error:
                failure = _database_error(error)
                if failure is None or isinstance(error, StorageLost):
                    raise
                text, waited = _explained(failure), time.monotonic() - start
                if waited + pause > self.patience or any(sign in text for sign in _HOPELESS):
                    raise StorageLost(f"{self.name}: lost, and not back after {waited:.0f} s: {text}") from error
                if pause == 0.2:
                    log.warning(f"{self.name}: {text}; trying again for {self.patience:.0f} s")
                self.outages += 1
            with contextlib.suppress(Exception):
                self._backend.engine.dispose()  # the pool may hold more broken connections
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    return tried_again


for _name in BaseStorage.__abstractmethods__:
    setattr(_PatientStorage, _name, _patient(getattr(_CachedStorage, _name)))
