"""A PostgreSQL server for tests: scram passwords, a free port of 127.0.0.1, never run as root."""

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
    """Return the folder of initdb and pg_ctl; skip the test if there is none."""
    installed = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"), reverse=True)
    program = shutil.which("pg_ctl") or next(iter(installed), None)
    if program is None:
        pytest.skip("no PostgreSQL server on this machine")
    return Path(program).resolve().parent


def as_nobody() -> dict:
    """Return arguments of subprocess that change the user, because PostgreSQL refuses to run as root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


class Server:
    """A server with an empty database `puffin`; its `password` is stored only by the server itself, hashed."""

    def __init__(self):
        self.bin, self.password = programs(), f"geheim{secrets.token_hex(8)}"
        # not in a folder of pytest, which other users cannot read
        self.folder = Path(tempfile.mkdtemp(prefix="puffin-pg-", dir="/tmp"))
        if as_nobody():
            shutil.chown(self.folder, "nobody", "nogroup")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        password = self.folder / "password"
        password.write_text(self.password)
        password.chmod(0o644)
        flags = f"-D data -U {USER} --auth=scram-sha-256 --no-sync -E UTF8".split()
        self._run("initdb", *flags, f"--pwfile={password}")
        password.unlink()
        with open(self.folder / "data/postgresql.conf", "a") as file:
            file.write(f"listen_addresses='127.0.0.1'\nport={self.port}\n")
            file.write(f"unix_socket_directories='{self.folder}'\nfsync=off\n")
        self.start()
        self._run("createdb", *self._client(), "puffin", env=os.environ | self.secret)

    @property
    def secret(self) -> dict[str, str]:
        """The environment variable with which a client gets the password."""
        return {"PGPASSWORD": self.password}

    @property
    def url(self) -> str:
        """The URL of the database, without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/puffin"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        self._run("pg_ctl", "-D", "data", "-l", "server.log", "-w", "start")

    def stop(self) -> None:
        """Stop the server at once, without saving, as in a power failure."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def dump(self) -> str:
        """Return the whole content of the database."""
        return self._run("pg_dump", *self._client(), "puffin", env=os.environ | self.secret)

    def remove(self) -> None:
        """Stop the server if it runs, and delete its files."""
        command = [self.bin / "pg_ctl", "-D", "data", "-m", "immediate", "stop"]
        subprocess.run(command, cwd=self.folder, capture_output=True, **as_nobody())
        shutil.rmtree(self.folder)

    def _client(self) -> list[str]:
        """Flags with which a client connects."""
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER]

    def _run(self, program: str, *arguments: str, env=None) -> str:
        # write to a file: the server inherits it, and a pipe would stay open as long as the server runs
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
