"""Break the CUDA kernels on purpose, and write which test sees each wrong version: python -m tests.mutants.

Everything happens in a copy of the repository: a mutant changes one text of csrc/cuda, the emulator (csrc/emulate) is
built, and the tests of the operation run until one fails. Takes about 20 minutes on one core. Exit status 1 if a
mutant survives, which means that a test is missing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.kernels import Mutant, read_mutants

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("csrc", "src", "tests", "setup.py", "pyproject.toml", "build/kernels")
HANGS = 300  # seconds; the slowest of these tests takes a tenth of it
MESSAGES = (
    r"ERROR: (AddressSanitizer: [\w-]+)",
    r"runtime error: (.*)",
    r"Fatal Python error: (.*)",
    r"E +RuntimeError: (.*)",
    r"E +(.*)",
)
SKIP = "not large and not threads and not quadratic and not refuse and not errors and not compile and not opcheck"
EXAMPLES = (  # the other clouds of knn and geometry take longer and differ only in their points
    " and not (knn_equals and (tracks or outliers or collinear or far_away or all_equal or dtype1))"
    " and not (test_geometry and (outliers or tracks or collinear or far or symmetry or eigenvalues or dtype1))"
    " and not agrees_with"
)


def copy_repository(folder: Path) -> None:
    """Copy what the build and the tests need."""
    for name in PARTS:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, target)


def build(folder: Path, sanitize: bool) -> str:
    """Build the emulator; return the error of the compiler, or nothing."""
    environment = {**os.environ, "PUFFIN_EMULATE": "1", "PUFFIN_SANITIZE": "1" if sanitize else ""}
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_kernels"],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
    )
    return "" if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-2000:]


def run_tests(folder: Path, tests: list[str], sanitize: bool) -> tuple[str, str] | None:
    """Run tests until one fails; return its name and message, or None if all pass."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PUFFIN_KERNELS": "emulated"}
    environment["PYTHONPATH"] = f"{folder / 'src'}{os.pathsep}{folder}"
    if sanitize:
        compiler = os.environ.get("CXX", "c++")
        libraries = [
            subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        environment |= {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
        environment["PUFFIN_KERNELS"] = "emulated_asan"
    files = [f"tests/ops/{name}" for name in tests]
    command = [sys.executable, "-m", "pytest", "-x", "-vv", "--tb=short", "-s", *files, "-k", SKIP + EXAMPLES]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=HANGS)
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        return last_test(output.decode() if isinstance(output, bytes) else output), "does not end"
    if done.returncode == 0:
        return None
    return last_test(done.stdout), message_of(done.stdout + done.stderr)


def last_test(output: str) -> str:
    """Return the name of the test that ran last."""
    names = re.findall(r"^tests/ops/(\S+::\S+)", output, flags=re.M)
    return names[-1] if names else "no test"


def message_of(output: str) -> str:
    """Return what the emulator, the sanitizer or the test says, in one line."""
    for pattern in MESSAGES:
        if found := re.search(pattern, output):
            return re.sub(r" \(addr2line.*|, which has .*(?=,)", "", found[1]).strip()
    return output.strip().splitlines()[-1] if output.strip() else "no output"


def study(folder: Path, mutants: list[Mutant]) -> list[tuple[Mutant, str, str]]:
    """Return each mutant with the test that fails and its message; both are empty for a mutant that survives."""
    rows = []
    for mutant in mutants:
        start, path = time.time(), folder / "csrc" / "cuda" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.file} holds its text {text.count(mutant.old)} times, expected 1")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        error = build(folder, mutant.sanitize)
        if error:
            raise SystemExit(f"{mutant.name}: does not compile\n{error}")
        test, message = run_tests(folder, [mutant.tests], mutant.sanitize) or ("", "")
        path.write_text(text, encoding="utf-8")
        rows.append((mutant, test, message))
        print(f"{time.time() - start:4.0f} s  {mutant.name}: {test or 'SURVIVES'}  {message}", flush=True)
    return rows


def table(rows: list[tuple[Mutant, str, str]]) -> str:
    """Return the page of the documentation."""
    caught = sum(bool(test) for _, test, _ in rows)
    lines = [
        "# Wrong CUDA kernels and the tests that catch them",
        "",
        f"The tests that run with the emulator ([kernels.md](kernels.md)) catch {caught} of {len(rows)} wrong versions "
        "of the CUDA kernels. This command breaks the kernels in a copy, one at a time, and writes this page:",
        "",
        "<!-- not run: takes 20 minutes -->",
        "```bash",
        "make mutants",
        "```",
        "",
        "The messages are those of the emulator, which name kernel, block and thread, of AddressSanitizer or UBSan, or "
        "of the comparison with the oracle.",
        "",
        "| wrong version | file | caught by | message |",
        "|---|---|---|---|",
    ]
    for mutant, test, message in rows:
        short = message.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {mutant.name} | `{mutant.file}` | {f'`{test}`' if test else '**nothing**'} | {short[:220]} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the study; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the table (default: print it)")
    parser.add_argument(
        "--only", default="", help="run only the mutants whose file and name match this regular expression"
    )
    options = parser.parse_args()
    mutants = [m for m in read_mutants() if re.search(options.only, f"{m.file} {m.name}")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_repository(folder)
        rows = []
        for sanitize in sorted({m.sanitize for m in mutants}):
            chosen = [m for m in mutants if m.sanitize == sanitize]
            if error := build(folder, sanitize):
                raise SystemExit(f"the kernels as they are do not compile\n{error}")
            if failure := run_tests(folder, sorted({m.tests for m in chosen}), sanitize):
                raise SystemExit(f"the kernels as they are fail {failure[0]}: {failure[1]}")
            rows += study(folder, chosen)
    if options.out:
        options.out.write_text(table(rows), encoding="utf-8")
    else:
        print(table(rows))
    return int(not all(test for _, test, _ in rows))


if __name__ == "__main__":
    raise SystemExit(main())
