"""Every script runs from a clone, and the package has one name."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

FOLDERS = (".", "tools", "bench", "data")
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)

SLOW = {"torch", "scipy", "sklearn", "matplotlib", "optuna", "uproot", "awkward", "onnx", "plotly"}  # to import

# Python runs this at its start, after the .pth file of an editable installation has put `src/` on sys.path.
WITHOUT_INSTALLATION = f"import sys\nsys.path[:] = [folder for folder in sys.path if folder != {str(ROOT / 'src')!r}]\n"


def test_the_scripts_are_found():
    """Breaks if the list of scripts misses a folder, so that the next test checks nothing."""
    expected = {
        "train_pointmae.py",
        "optuna_search.py",
        "tools/export_onnx.py",
        "bench/kernels.py",
        "data/make_jets.py",
    }
    assert expected <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run_from_a_clone(script, tmp_path):
    """Each script prints its help from another folder, without `src/` on PYTHONPATH and without an installed package.

    Breaks if a script does not put `src/` on sys.path, if a module is loaded a second time under the name `src`, or if
    --help waits for a package that takes seconds to import (studies in bench/ may).
    """
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_INSTALLATION)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / script), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr[-2000:]
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in loaded and not [name for name in loaded if name.split(".")[0] == "src"]
    assert script.startswith("bench/") or not loaded & SLOW


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_without_the_environment(script):
    """Under a Python without packages each script says in one line how to activate the environment, or works.

    Breaks if an import comes before `explain_missing_packages`, or if --help of a training script needs a package."""

    def run(*flags):
        line = [sys.executable, "-S", str(ROOT / script), *flags]  # -S: without the installed packages
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)

    done, is_training = run("--help"), "/" not in script
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or not is_training
    if is_training:
        done = run("--task", "classifier") if script == "optuna_search.py" else run("--prefix", "a")
    if done.returncode:
        (line,) = done.stderr.strip().splitlines()
        assert done.returncode == 1 and "is not installed for" in line and "/bin/activate" in line
    else:
        assert not is_training and "usage: " in done.stdout


def test_nothing_imports_src():
    """Imports inside functions too. Breaks if a module is imported as `src.puffin...`, which would load it twice."""
    pattern = re.compile(r"^\s*(import|from)\s+src\b|import_module\(\s*[\"']src\b", re.MULTILINE)
    files = list(ROOT.glob("*.py"))
    for folder in ("src", "tools", "bench", "data", "tests"):
        files += (ROOT / folder).rglob("*.py")
    assert len(files) > 100
    assert [str(path.relative_to(ROOT)) for path in files if pattern.search(path.read_text())] == []


def test_waiting_threads_sleep():
    """Breaks if threads spin while they wait, which makes training many times slower when another program runs, or if a
    choice of the user is replaced."""
    show = "import os, puffin; print(os.environ.get('GOMP_SPINCOUNT'))"
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for given, expected in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")):
        found = subprocess.run(
            [sys.executable, "-c", show], env=clean | given, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == expected
