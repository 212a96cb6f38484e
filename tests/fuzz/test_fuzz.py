"""A short part of the fuzz campaign (`make fuzz` runs the long one)."""

import os

import pytest

from tests.fuzz.campaign import Campaign, make_case


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return Campaign(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("number", range(60))
def test_case(campaign, number):
    """Success, or one line with the cause; no half-written file, nothing of another run lost.

    The seed is that of the long campaign, so a case that fails there can be repeated by its number."""
    before = os.getcwd()
    os.chdir(campaign.folder)
    try:
        case = make_case(campaign, number, seed=1)
        _, wrong = case.outcome()
    finally:
        os.chdir(before)
    assert not wrong, f"{case.script}, {case.kind}: {wrong}"
