"""Types of number flags: what they accept, and how they refuse the rest."""

import argparse

import pytest

from puffin.settings.types import file_name, integer, number


def test_accepted_values():
    """The limits themselves: included by minimum and maximum, excluded by above and below."""
    assert integer(1)("1") == 1 and integer(0, 3)("3") == 3
    assert number(minimum=0, maximum=1)("0") == 0 and number(maximum=1)("1") == 1
    assert file_name("top é-1.2 [x]*") == "top é-1.2 [x]*"
    assert number(above=0)("1e-9") == 1e-9 and number(below=1)("-5") == -5


@pytest.mark.parametrize(
    "kind, text, message",
    [
        (integer(1), "0", "expected an integer of at least 1, got '0'"),
        (integer(1), "1.0", "expected an integer of at least 1, got '1.0'"),
        (integer(0, 3), "4", "expected an integer from 0 to 3, got '4'"),
        (number(minimum=0, maximum=1), "1.5", "expected a number from 0 to 1, got '1.5'"),
        (number(minimum=20), "-1", "expected a number of at least 20, got '-1'"),
        (number(above=0, maximum=1.5), "2", "expected a number above 0 and of at most 1.5, got '2'"),
        (number(above=0), "0", "expected a number above 0, got '0'"),
        (number(above=0), "nan", "expected a number above 0, got 'nan'"),
        (number(above=0), "inf", "expected a number above 0, got 'inf'"),
        (number(below=1), "1", "expected a number below 1, got '1'"),
        (number(), "many", "expected a number, got 'many'"),
        (file_name, "a/b", "expected a plain file name, got 'a/b'"),
        (file_name, "-top", "expected a plain file name, got '-top'"),
        (file_name, "top\nqcd", "expected a plain file name, got 'top\\nqcd'"),
    ],
)
def test_refused_values(kind, text, message):
    """Breaks if a value out of range passes, or the message does not say what was expected and what came."""
    with pytest.raises(argparse.ArgumentTypeError) as refusal:
        kind(text)
    assert str(refusal.value) == message
