"""Which script has which flags."""

from puffin.settings.scripts import SCRIPTS, flags_of, scripts_with
from tests.conftest import ROOT


def test_scripts_exist():
    """Breaks if a message would name a script that is not there."""
    assert all((ROOT / script).is_file() for script in SCRIPTS)


def test_flags():
    """All spellings count, flags without a use do not."""
    assert scripts_with("--num-classes") == ["train_pelican_classifier.py"]
    assert scripts_with("--num-targets") == ["train_pelican_cov.py"]
    assert {"--no-rotate", "--eval", "-bs", "--cpu", "--jobname"} <= flags_of(SCRIPTS["train_pointmae.py"])
    assert scripts_with("--qqqq") == []
