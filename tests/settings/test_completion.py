"""Completions of a command line, as a shell asks for them (argcomplete)."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

pytest.importorskip("argcomplete")


def completions(script: str, line: str, folder) -> list[str]:
    """Return the completions of the last word of a line that begins with python3."""
    answer = folder / "answer"
    asked = {"_ARGCOMPLETE": "2", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    environment = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    subprocess.run([sys.executable, ROOT / script], env=environment, cwd=folder, timeout=PATIENCE, check=True)
    return [word.strip() for word in answer.read_text().split("\n")]


@pytest.mark.parametrize(
    "script, words, expected",
    [
        ("train_pelican_classifier.py", "--lr-i", ["--lr-init"]),
        ("train_pelican_classifier.py", "--yaml a.yaml --optim ada", ["adamw", "adam", "adamax", "adagrad"]),
        ("train_pelican_classifier.py", "--fix-d", [""]),  # obsolete flags are not proposed
        ("optuna_search.py", "--task poi", ["pointmae"]),
        ("tools/export_weights.py", "a.pt b.pt --ha", ["--half"]),
    ],
)
def test_completions(script, words, expected, tmp_path):
    """Breaks if the parser does not answer the shell, or if it answers after the line was parsed."""
    assert completions(script, f"python3 {ROOT / script} {words}", tmp_path) == expected


def test_every_script_is_marked():
    """The shell asks only scripts that contain this word in their first lines."""
    scripts = [path for folder in (".", "tools", "data") for path in (ROOT / folder).glob("*.py")]
    with_flags = [path for path in scripts if "__main__" in path.read_text() and path.name != "setup.py"]
    assert len(with_flags) > 15
    assert not [path.name for path in with_flags if "# PYTHON_ARGCOMPLETE_OK" not in path.read_text()[:1000]]
