"""A real PostgreSQL server for tests: scram passwords, a free port of 127.0.0.1, never as root."""

import glob
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

USER = "sweeper"


def programs() -> Path:
    """Folder of initdb and pg_ctl; without one the test is skipped."""
    found = shutil.which("pg_ctl") or next(
        iter(sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"), reverse=True)), None
    )
    if found is None:
        pytest.skip("no PostgreSQL server on this machine")
    return Path(found).resolve().parent


def as_nobody() -> dict:
    """For subprocess: PostgreSQL refuses to run as root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


class Server:
    """Starts with an empty database `puffin`; `password` is in no file but the server's own, hashed."""

    def __init__(self):
        self.bin, self.password = programs(), f"geheim{secrets.token_hex(8)}"
        self.folder = Path(
            tempfile.mkdtemp(prefix="puffin-pg-", dir="/tmp")
        )  # pytest's folders are closed to other users
        if as_nobody():
            shutil.chown(self.folder, "nobody", "nogroup")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        given = self.folder / "given"
        given.write_text(self.password)
        given.chmod(0o644)
        self._run(
            "initdb", "-D", "data", "-U", USER, "--auth=scram-sha-256", f"--pwfile={given}", "--no-sync", "-E", "UTF8"
        )
        given.unlink()
        with open(self.folder / "data/postgresql.conf", "a") as file:
            file.write(
                f"listen_addresses='127.0.0.1'\nport={self.port}\nunix_socket_directories='{self.folder}'\nfsync=off\n"
            )
        self.start()
        self._run(
            "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "puffin", env=os.environ | self.secret
        )

    @property
    def secret(self) -> dict[str, str]:
        """The environment of a client that knows the password."""
        return {"PGPASSWORD": self.password}

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/puffin"

    def start(self) -> None:
        self._run("pg_ctl", "-D", "data", "-l", "server.log", "-w", "start")

    def stop(self) -> None:
        """At once, as if the machine lost power."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def dump(self) -> str:
        """Everything in the database."""
        return self._run(
            "pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "puffin", env=os.environ | self.secret
        )

    def remove(self) -> None:
        subprocess.run(
            [self.bin / "pg_ctl", "-D", "data", "-m", "immediate", "stop"],
            cwd=self.folder,
            capture_output=True,
            **as_nobody(),
        )
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str, env=None) -> str:
        # to files: the server inherits them, and a pipe would never close
        with open(self.folder / "out", "w+") as out:
            done = subprocess.run(
                [self.bin / program, *arguments],
                cwd=self.folder,
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                **as_nobody(),
            )
            out.seek(0)
            text = out.read()
        assert done.returncode == 0, text
        return text
