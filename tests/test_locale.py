"""Machines whose locale is not UTF-8, as in many containers and batch jobs."""

import ast
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.runs.test_classifier_script import TINY

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TEXT_MODES = {"read_text", "write_text", "open", "FileHandler", "savetxt"}


def run(*command, cwd=ROOT) -> subprocess.CompletedProcess:
    environment = {**os.environ, **C_LOCALE}
    return subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True)


def test_a_run_with_names_beyond_ascii(small_jets, tmp_path):
    """A preset with a comment in another language, and a folder with an umlaut: training, log, tables, settings."""
    preset = tmp_path / "größe.yaml"
    preset.write_text("# Größe des Netzes µ\nbatch-size: 50\nnum-epoch: 1\nplot: false\n", encoding="utf-8")
    flags = [*TINY, "--prefix", "a"]
    work = tmp_path / "läufe"
    for further in ([], ["--load", "--num-epoch", 2]):
        paths = ["--datadir", small_jets, "--workdir", work]
        done = run("train_pelican_classifier.py", "--yaml", preset, *flags, *paths, *further)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    log = (work / "log/a.log").read_text(encoding="utf-8")
    assert "command: " in log and "l\\udcc3\\udca4ufe" in log
    shown = run("tools/show_metrics.py", work / "log/a.Best.metrics.csv")
    assert shown.returncode == 0 and b"AUC" in shown.stdout


@pytest.mark.parametrize("script", ["tools/plot_label_budgets.py", "train_pelican_cov.py", "data/make_jets.py"])
def test_help(script):
    """Breaks if a help text has a character that such a terminal cannot show."""
    done = run(script, "--help")
    assert done.returncode == 0 and done.stderr == b""


def is_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file in the encoding of the locale."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in TEXT_MODES or any(k.arg == "encoding" for k in call.keywords):
        return False
    owner = function.value if isinstance(function, ast.Attribute) else None
    if name == "open" and owner is not None:
        return False  # os.open, gzip.open, zipfile, uproot: not text, or not ours
    mode = [a.value for a in call.args[1:2] if isinstance(a, ast.Constant)]
    mode += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    if name == "open" and any("b" in str(m) for m in mode):
        return False
    return True


def test_every_text_file_names_its_encoding():
    """Sources, tools and benchmarks: a file that is opened without an encoding is read in that of the machine."""
    folders = ("src", "tools", "data", "bench")
    files = [p for f in folders for p in (ROOT / f).rglob("*.py")] + list(ROOT.glob("*.py"))
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and is_text_without_encoding(node)
    ]
    assert len(files) > 100
    assert found == []
