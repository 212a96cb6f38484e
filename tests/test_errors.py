"""Pieces of messages."""

import sys

import pytest

from puffin import errors
from puffin.errors import explain_missing_packages, is_missing_package, missing_package, nearest, plural


@pytest.mark.parametrize(
    "number, noun, text",
    [
        (1, "picture", "1 picture"),
        (0, "picture", "0 pictures"),
        (2, "process", "2 processes"),
        (1, "process", "1 process"),
        (3, "minibatch", "3 minibatches"),
    ],
)
def test_plural(number, noun, text):
    """Breaks if a message says "1 pictures"."""
    assert plural(number, noun) == text


def test_nearest():
    """The end of a message names the similar word, or is empty."""
    assert nearest("droprate", ["drop-rate", "depth"]) == " (did you mean drop-rate?)"
    assert nearest("xyz", ["drop-rate", "depth"]) == ""


def test_a_module_of_ours_is_no_missing_package():
    """Breaks if a wrong import of our own is explained by an environment that is not active."""
    with pytest.raises(ModuleNotFoundError) as ours:
        import puffin.nothing  # noqa: F401
    with pytest.raises(ModuleNotFoundError) as foreign:
        import nothing_of_this_name.inside  # noqa: F401
    assert not is_missing_package(ours.value) and is_missing_package(foreign.value)
    assert "'nothing_of_this_name'" in missing_package(foreign.value.name)


def test_remedy_fits_the_environment(tmp_path, monkeypatch):
    """A clone with an environment: activate it, or install the package if it is active; without one: make it first.

    What only some commands need is installed with its extra."""
    (tmp_path / "src/puffin").mkdir(parents=True)
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "src/puffin/errors.py"))
    assert missing_package("torch").endswith("pip install -r requirements.txt")
    (tmp_path / "Makefile").touch()
    assert "make install" in missing_package("torch") and "activate" in missing_package("torch")
    (tmp_path / ".venv").mkdir()
    assert missing_package("torch.nn").endswith(f"source {tmp_path}/.venv/bin/activate")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert missing_package("torch").endswith("pip install -r requirements.txt")
    assert missing_package("cmaes").endswith("'.[sweeps]'") and missing_package("uproot").endswith("'.[convert]'")


def test_extras_exist():
    """Breaks if a message names an extra that pyproject.toml does not have, or that does not install the package."""
    import tomllib

    from tests.conftest import ROOT

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in errors._EXTRAS.items():
        assert any(line.startswith(package) for line in extras[extra])


def test_other_failures_keep_their_traceback(monkeypatch, capsys):
    """The hook answers missing packages alone."""
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: seen.append(error))
    explain_missing_packages()
    bug, missing = KeyError("bug"), ModuleNotFoundError("No module named 'x'", name="x")
    sys.excepthook(KeyError, bug, None)
    sys.excepthook(ModuleNotFoundError, missing, None)
    assert [error[1] for error in seen] == [bug]
    assert "'x' is not installed" in capsys.readouterr().err
