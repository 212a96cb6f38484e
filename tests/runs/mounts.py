"""Real small, read-only or other file systems for tests, in a user namespace of their own."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE


def can_mount() -> bool:
    """Return whether this machine lets a user mount file systems in a namespace of their own."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        return False
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k none /tmp"]
    return subprocess.run(command, capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs user namespaces to mount file systems")


def run_mounted(mounts: list[str], argv: list[str], environment: dict[str, str] | None = None):
    """Run a script of the repository after shell commands that mount file systems; return the finished process.

    mounts: for example "mount -t tmpfs -o size=1m none FOLDER". The mounts vanish with the process."""
    shell = " && ".join([*mounts, 'exec "$@"'])
    command = ["unshare", "-rm", "sh", "-c", shell, "sh", sys.executable, *argv]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **(environment or {})},
    )
