"""The list of wrong kernels fits the kernels, so that `make mutants` can run; the study takes a quarter of an hour."""

import pytest

from tests.conftest import ROOT
from tests.mutants.kernels import read_mutants


@pytest.mark.parametrize("mutant", read_mutants(), ids=lambda mutant: mutant.name)
def test_text_occurs_once(mutant):
    """Breaks when a kernel changes and its wrong version does not: adapt kernels.txt, and run make mutants."""
    text = (ROOT / "csrc" / "cuda" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1 and mutant.old != mutant.new
    assert (ROOT / "tests" / "ops" / mutant.tests).exists()


def test_every_source_has_wrong_versions():
    """Breaks when a new kernel file has no mutant; device.cuh and launch.cuh hold helpers."""
    sources = {path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu*")} - {"launch.cuh"}
    missing = sources - {mutant.file for mutant in read_mutants()}
    assert not missing, f"no wrong version of {', '.join(sorted(missing))}"
