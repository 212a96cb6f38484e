"""The table of aggregation letters: read without PyTorch, and checked."""

import subprocess
import sys

import pytest

from puffin.settings.letters import LETTER_NAMES, LETTERS, check_letters, has_exponent, letter


def test_needs_no_pytorch():
    """--help shows the letters; importing PyTorch for it would take seconds."""
    code = "import sys; import puffin.settings.letters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names():
    """Small letters, then the capitals, which do the same and have an exponent."""
    assert LETTER_NAMES == "smxnSMXN"
    assert [has_exponent(name) for name in LETTER_NAMES] == [False] * 4 + [True] * 4
    assert all(letter(name.upper()) is LETTERS[name] and LETTERS[name].help for name in LETTERS)


@pytest.mark.parametrize("config", ["", "q", "sq", "s m"])
def test_unknown_letters(config):
    with pytest.raises(ValueError, match="config: expected one or more of the letters smxnSMXN, got"):
        check_letters(config)


def test_irc_safe_networks_take_linear_letters():
    """Sums and means pass; extrema are refused with the letters to use."""
    check_letters("smSM", irc_safe=True)
    for config in ("x", "sN"):
        check_letters(config)
        with pytest.raises(ValueError, match="not IRC-safe, got .*; use the letters s, m, S, M"):
            check_letters(config, irc_safe=True)
