"""The entrance of a script: standard streams that the caller has closed."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

SCRIPT = """
import sys
from puffin.runs.entry import run_script
from puffin.training.logs import start_logging

def main(argv):
    with open(argv[0], "w") as file:
        start_logging("info").warning("logged")
        print("printed", flush=True)
        file.write(f"stream {file.fileno()}" if file.fileno() < 3 else "own number")

run_script(main, sys.argv[1:])
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(tmp_path, closed):
    """Breaks if a script fails without a terminal to log to, or opens a file under the number of a stream, so that
    messages of libraries would be written into it."""
    shell = ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-c", SCRIPT, str(tmp_path / "output")]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "output").read_text() == "own number"
