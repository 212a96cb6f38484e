"""Flags whose settings are not complete yet."""

import pytest

from puffin.errors import InputError
from puffin.settings.common import RunSettings
from puffin.settings.flags import parse
from puffin.settings.jets import ClassifierSettings


def test_a_part_needs_no_other():
    """Widths that fit only the checkpoint, or only the trial of a sweep, do not hide where the run's files are."""
    flags = parse(ClassifierSettings, "", ["--num-channels-2to2", "[4,4]", "--prefix", "a"])
    assert flags.part(RunSettings).prefix == "a"
    with pytest.raises(InputError, match="one entry per block"):
        flags.settings()
