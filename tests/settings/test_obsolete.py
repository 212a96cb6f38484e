"""Flags of the published scripts: accepted where they change nothing, refused with a reason where they would."""

import argparse

import pytest

from puffin.errors import InputError
from puffin.settings.jets import ClassifierSettings
from puffin.settings.obsolete import OBSOLETE, OBSOLETE_OF_SWEEPS, add_obsolete_flags


def parse(*argv):
    """Arguments of a parser that has nothing but these flags."""
    parser = argparse.ArgumentParser()
    add_obsolete_flags(parser, OBSOLETE | OBSOLETE_OF_SWEEPS)
    return parser.parse_args(argv)


def test_what_changes_nothing_is_accepted():
    """Old commands go on working, and nothing of these flags stays in the arguments."""
    args = parse(
        "--alpha",
        "50",
        "--textlog",
        "--no-quiet",
        "--fix-data",
        "--lr-minibatch",
        "--lr-decay=-1",
        "--logfile",
        "",
        "--no-force-download",
    )
    assert vars(args) == {}


@pytest.mark.parametrize(
    "argv, reason",
    [
        (["--no-lr-minibatch"], "every minibatch"),
        (["--sgd-restart", "2"], "--lr-decay-type warm"),
        (["--force-download"], "tools/download.py"),
        (["--checkfile", "a.pt"], "--prefix"),
        (["--study-name", "mine"], "optuna_search.py"),
        (["--password", "hunter2"], "PGPASSWORD"),
    ],
)
def test_what_would_change_something_is_refused(argv, reason):
    """With the reason, and never with the password."""
    with pytest.raises(InputError, match=reason) as refusal:
        parse(*argv)
    assert "hunter2" not in str(refusal.value)


def test_every_flag_of_the_published_script_is_known(run_folder):
    """Whatever a published checkpoint remembers of its command line is a flag here, or in the table of obsolete
    ones."""
    import train_pelican_classifier
    from puffin.checkpoints.reading import read_checkpoint

    known = {action.dest for action in train_pelican_classifier.make_parser()._actions}
    obsolete = {name.replace("-", "_") for name in OBSOLETE | OBSOLETE_OF_SWEEPS} | set(ClassifierSettings.HIDDEN)
    stored = vars(read_checkpoint(run_folder / "ref_best.pt")["args"]).keys()
    assert stored - known - obsolete == {"dropout"}  # not a flag there either: computed from --drop-rate
