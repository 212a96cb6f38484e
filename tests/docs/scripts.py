"""Run the scripts of the repository in this process as the shell would start them."""

import argparse
import contextlib
import functools
import io
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PACKAGES = (ROOT / "src", ROOT / "tests", ROOT / ".venv")


@contextlib.contextmanager
def fresh_interpreter(script: Path | None, argv: list[str], python_path: list[str]) -> Iterator[None]:
    """sys.argv, sys.path and sys.modules as a new process would see them, apart from the package and its dependencies.

    So a script that finds its neighbours only because the tests put their folders on sys.path fails."""
    path, modules, arguments = list(sys.path), dict(sys.modules), list(sys.argv)
    own = [str(script.parent)] if script else []
    sys.path[:] = [*own, *python_path, str(ROOT / "src"), *(p for p in path if not _is_ours(p))]
    for name, module in modules.items():
        if _is_ours(getattr(module, "__file__", None)):
            del sys.modules[name]
    sys.argv[:] = [str(script), *argv]
    try:
        yield
    finally:
        sys.path[:], sys.argv[:] = path, arguments
        sys.modules.update(modules)


def _is_ours(path: str | None) -> bool:
    """Whether a path lies in the repository, outside of the package, the tests and the environment."""
    if not path:
        return False
    resolved = Path(path).resolve()
    return resolved.is_relative_to(ROOT) and not any(resolved.is_relative_to(folder) for folder in PACKAGES)


def run(script: str, argv: list[str], python_path: list[str]) -> str:
    """Run a script, or a module of the package where the name has no .py; returns its output. Fails if it does."""
    file = ROOT / script if script.endswith(".py") else None
    output = io.StringIO()
    with fresh_interpreter(file, argv, python_path), contextlib.redirect_stdout(output):
        try:
            if file:
                runpy.run_path(str(file), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__")
        except SystemExit as stop:
            if stop.code not in (0, None):
                pytest.fail(f"{script} {' '.join(argv)}: exit status {stop.code}\n{output.getvalue()[-2000:]}")
    return output.getvalue()


@functools.cache
def parser_of(script: str, python_path: tuple[str, ...] = ()) -> argparse.ArgumentParser | None:
    """The parser of a script, which --help shows; None if it has none."""
    shown = []
    patch = pytest.MonkeyPatch()
    patch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: shown.append(self))
    try:
        with fresh_interpreter(ROOT / script, ["--help"], list(python_path)), contextlib.redirect_stdout(io.StringIO()):
            with contextlib.suppress(SystemExit):
                runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        patch.undo()
    return shown[0] if shown else None


def refusal(parser: argparse.ArgumentParser, argv: list[str], partly: bool = False) -> tuple[str, list[str]]:
    """Why a parser refuses the arguments ("" if it does not); if `partly`, the arguments that it does not know, too."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            rest = parser.parse_known_args(argv)[1] if partly else parser.parse_args(argv) and []
        except SystemExit:
            return errors.getvalue().strip().splitlines()[-1], []
    return "", rest
