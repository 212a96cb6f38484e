"""Errors that the user can correct; scripts print them as one line and exit with a non-zero status."""

import difflib
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeGuard


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, shortened to 200 characters."""
    return (str(error).splitlines() or [""])[0][:200]


# packages that only some commands need: the extra of pyproject.toml that installs them
_EXTRAS = {
    "argcomplete": "completion",
    "cmaes": "sweeps",
    "plotly": "plots",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "uproot": "convert",
    "awkward": "convert",
    "hdf5plugin": "convert",
    "pythia8mc": "generate",
    "fastjet": "generate",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}


class InputError(Exception):
    """Bad flags, files or data. The message says what is wrong, where, and what to do."""


class DiskFull(InputError):
    """A file could not be written, because its disk is full."""


class NonFiniteError(RuntimeError):
    """The loss or its gradient became infinite or nan; no update was made."""


class Interrupted(Exception):
    """SIGTERM or SIGINT came, and the state was saved. `signum` is the signal."""

    def __init__(self, signum: int, saved: Path | None):
        self.signum = signum
        where = (
            f"state saved to {saved}; run the same command with --load to resume"
            if saved
            else "nothing saved (--no-save)"
        )
        super().__init__(f"stopped by {signal.Signals(signum).name}: {where}")


class MissingOutputs(Exception):
    """A run has finished, but some of its outputs could not be written. `history`: one row of numbers per epoch."""

    def __init__(self, failures: list[str], history: list[dict]):
        self.history = history
        number = plural(len(failures), "output")
        super().__init__(f"the run has finished, but {number} could not be written: {'; '.join(failures)}")


def not_a_file(path: Path) -> str:
    """Return the beginning of a message about a path where a file is expected: what is there instead."""
    return f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}"


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: "1 picture", "2 pictures", "3 minibatches", "2 processes"."""
    ending = "es" if noun.endswith(("s", "ch", "sh", "x")) else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{ending}"


def nearest(name: str, known: Iterable[str], show: Callable[[str], str] = str) -> str:
    """Return the end of a message about an unknown name: " (did you mean dropout?)", or "" if none is similar."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {show(found[0])}?)" if found else ""


def missing_package(name: str) -> str:
    """Return the message about a Python package that cannot be imported: how to activate the environment with it, or
    how to install it. name: as it is imported."""
    name, clone = name.partition(".")[0], Path(__file__).resolve().parents[2]
    environment = clone / ".venv"
    problem = f"the Python package '{name}' is not installed for {sys.executable}"
    if name in _EXTRAS:
        return f"{problem}; install it with: pip install --no-build-isolation -e '.[{_EXTRAS[name]}]'"
    if environment.is_dir() and Path(sys.prefix).resolve() != environment.resolve():
        return f"{problem}; activate Puffin's environment: source {environment}/bin/activate"
    if environment.is_dir() or not (clone / "Makefile").is_file():
        return f"{problem}; install it with: pip install -r requirements.txt"
    return (
        f"{problem}; create Puffin's environment with 'make install' in {clone} and activate it: "
        f"source {environment}/bin/activate"
    )


def is_missing_package(error: BaseException) -> TypeGuard[ModuleNotFoundError]:
    """Return whether the error says that a package is not installed which is not our own."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "puffin").partition(".")[0] != "puffin"


def explain_missing_packages() -> None:
    """Let an import that fails end the script with one line, instead of a traceback; for scripts that import packages
    before they parse their flags."""
    before = sys.excepthook

    def report(kind, error, trace) -> None:
        if is_missing_package(error):
            print(f"error: {missing_package(error.name or '')}", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = report
