"""Compile the cases for the tests of the emulator (csrc/emulate), once per session and without PyTorch."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c++20", "-O1", "-DPUFFIN_EMULATED", f"-I{ROOT / 'csrc' / 'emulate'}", f"-I{HERE}"]
# those of emulated_commands in setup.py
CHECKED = "-fsanitize=thread --param tsan-distinguish-volatile=1 --param tsan-instrument-func-entry-exit=0 -x c++"


@pytest.fixture(scope="session")
def run_case(tmp_path_factory):
    """Return a function that runs a case: run_case(name, **environment) -> (exit status, output)."""
    folder = tmp_path_factory.mktemp("emulate")
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler) and os.environ.get("PUFFIN_REQUIRE_KERNELS") != "1":
        pytest.skip(f"no C++ compiler ({compiler})")
    kernels = [(path, CHECKED.split()) for path in sorted(HERE.glob("*.cu"))]
    others = [(path, []) for path in [*sorted((ROOT / "csrc" / "emulate").glob("*.cpp")), HERE / "main.cpp"]]

    def compile_(source: Path, flags: list[str]) -> str:
        target = str(folder / f"{source.name}.o")
        subprocess.run([compiler, *FLAGS, *flags, "-c", str(source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: compile_(*job), kernels + others))
    subprocess.run([compiler, *objects, "-ldl", "-o", str(folder / "cases")], check=True)

    def run(case: str, **environment) -> tuple[int, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PUFFIN_EMULATE")}
        done = subprocess.run(
            [folder / "cases", case], env={**clean, **environment}, capture_output=True, text=True, timeout=PATIENCE
        )
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    return run
