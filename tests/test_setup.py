"""setup.py and `make kernels`, in a small folder with substitutes for PyTorch and for the compilers."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

# The substitute of a compiler logs its calls in the file `calls`.
COMPILER = """#!/bin/bash
# Writes the output file and, with -MF, the file of dependencies; as nvcc it offers the architectures $KNOWN.
if [ "$1" = --list-gpu-arch ]; then printf 'compute_%s\\n' $KNOWN; exit; fi
echo "$(basename "$0") $*" >> calls
while [ $# -gt 0 ]; do
  case $1 in -o) out=$2 ;; -MF) deps=$2 ;; -c) source=$2 ;; esac
  shift
done
[ -z "$deps" ] || echo "$out: $source csrc/kernel.h" > "$deps"
[ -z "$FAILS" ] || exit 1
echo made > "$out"
"""

PYTORCH = """import os, types
__version__, version = "2.13.0", types.SimpleNamespace(cuda=os.environ.get("CUDA_OF_PYTORCH"))
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of setup.py and the Makefile, one source for each library, and a `.venv` with the Python of this test."""
    for name in ("setup.py", "Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc/cpu/a.cpp", "csrc/cuda/b.cu", "csrc/puffin.cpp", "csrc/kernel.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "src/puffin/ops").mkdir(parents=True)
    (tmp_path / "modules/torch").mkdir(parents=True)
    (tmp_path / "modules/torch/__init__.py").write_text(PYTORCH)
    scripts = {
        ".venv/bin/python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
        "bin/cxx": COMPILER,
        "bin/nvcc": COMPILER,
    }
    for name, text in scripts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def build(tree, **environment) -> subprocess.CompletedProcess:
    """Run `make kernels`, with a CPU build of PyTorch by default."""
    commands = {"CXX": str(tree / "bin/cxx"), "NVCC": str(tree / "bin/nvcc"), "PYTHONPATH": str(tree / "modules")}
    hidden = (
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "TORCH_CUDA_ARCH_LIST",
        "PUFFIN_CUDA",
        "PUFFIN_EMULATE",
        "PUFFIN_SANITIZE",
    )
    outer = {k: v for k, v in os.environ.items() if k not in hidden}
    environment = outer | commands | {"KNOWN": "80 90 100"} | environment
    return subprocess.run(
        ("make", "kernels"), cwd=tree, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


def calls(tree) -> list[str]:
    """Return the names of the files that the compilers made since the last call."""
    made = (tree / "calls").read_text().splitlines() if (tree / "calls").exists() else []
    (tree / "calls").unlink(missing_ok=True)
    return sorted(line.rsplit(" ", 1)[1].rsplit("/", 1)[-1] for line in made)


def test_make_kernels_builds_what_is_missing_or_stale_and_nothing_else(tree):
    """Breaks if an existing CPU library hides that the CUDA library is missing, if a changed header or flag is not
    noticed, or if a call with nothing to do compiles or prints more than one line."""
    assert build(tree).returncode == 0 and calls(tree) == ["a.o", "puffin.o", "puffin_cpu.so"]
    again = build(tree)
    assert calls(tree) == [] and again.returncode == 0 and len((again.stdout + again.stderr).splitlines()) == 1
    assert build(tree, CUDA_OF_PYTORCH="13.0").returncode == 0 and calls(tree) == ["b.o", "puffin_cuda.so"]
    (tree / "src/puffin/ops/_lib/puffin_cuda.so").unlink()
    build(tree, CUDA_OF_PYTORCH="13.0")
    assert calls(tree) == ["puffin_cuda.so"]
    os.utime(tree / "csrc/kernel.h", (time.time() + 60,) * 2)
    build(tree)
    assert {"a.o", "puffin.o"} <= set(calls(tree))
    os.utime(tree / "csrc/kernel.h", (0, 0))
    build(tree, CXX=f"{tree}/./bin/cxx")
    assert calls(tree) == ["a.o", "puffin.o", "puffin_cpu.so"]


def test_a_failed_build_is_not_taken_for_a_finished_one(tree):
    """Breaks if a file that a failed or killed compiler left behind is used because it is new."""
    build(tree)
    (tree / "csrc/cpu/a.cpp").write_text("// changed")
    os.utime(tree / "csrc/cpu/a.cpp", (time.time() + 1,) * 2)
    done = build(tree, FAILS="1")
    assert done.returncode != 0 and "building a.o failed" in done.stderr
    for leftover in tree.glob("build/kernels/*/a.o"):
        os.utime(leftover, (time.time() + 60,) * 2)
    calls(tree)
    assert build(tree).returncode == 0 and "a.o" in calls(tree)


@pytest.mark.parametrize(
    "known, listed, expected, cut",
    [
        ("80 90 100", None, "sm_80 sm_90 sm_100 compute_100", False),
        ("70 80 90", None, "sm_80 sm_90 compute_90", True),
        ("90 100 120", None, "sm_90 sm_100 compute_100", True),
        ("80 90", "9.0;10.0", "sm_90 sm_100", False),
    ],
)
def test_architectures_are_those_nvcc_has(tree, known, listed, expected, cut):
    """Breaks if the default asks nvcc for architectures that it does not offer, if it drops some without a message or
    has no PTX for newer GPUs, or if an explicit list is changed."""
    flags = {} if listed is None else {"TORCH_CUDA_ARCH_LIST": listed}
    done = build(tree, CUDA_OF_PYTORCH="13.0", KNOWN=known, **flags)
    assert done.returncode == 0, done.stderr
    lines = (tree / "calls").read_text().splitlines()
    compiled = next(line for line in lines if line.startswith("nvcc") and " -c " in line)
    assert re.findall(r",code=(\S+)", compiled) == expected.split()
    assert ("does not offer all of 8.0;9.0;10.0" in done.stdout) == cut


def test_nvcc_without_any_of_the_architectures(tree):
    """Breaks if the build ends with a compiler error, or with a library without code."""
    done = build(tree, CUDA_OF_PYTORCH="13.0", KNOWN="52 60")
    assert done.returncode != 0 and "expected one of 8.0;9.0;10.0, got compute_52 compute_60" in done.stderr
    assert "nvcc 12.0 or newer" in done.stderr and not (tree / "src/puffin/ops/_lib/puffin_cuda.so").exists()
