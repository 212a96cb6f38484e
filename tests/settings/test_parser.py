"""Command lines with an error: one line, with the nearest flag."""

import pytest

from puffin.settings.clouds import PretrainingSettings
from puffin.settings.flags import make_parser
from puffin.settings.jets import ClassifierSettings
from puffin.settings.parser import OneLineParser
from tests.test_package import ROOT, SCRIPTS


def message(parser, argv, capsys) -> str:
    """Parse a bad command line; return the one line of the error."""
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv.split())
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    return line


@pytest.mark.parametrize(
    "schema, argv, text",
    [
        (ClassifierSettings, "--lr-int 0.1", "unknown flag --lr-int (did you mean --lr-init?)"),
        (ClassifierSettings, "--lr_init=0.1", "unknown flag --lr_init (did you mean --lr-init?)"),
        (ClassifierSettings, "--no-shufle", "unknown flag --no-shufle (did you mean --no-shuffle?)"),
        (ClassifierSettings, "-prefix a", "(did you mean --prefix?)"),
        (ClassifierSettings, "--qqqq 1", "unknown flag --qqqq (--help"),
        (ClassifierSettings, "--nobj 3 4", "unexpected argument '4': it belongs to no flag"),
        (
            ClassifierSettings,
            "--lora-rank 3",
            "--lora-rank is a flag of train_segmentation.py, not of this script",
        ),
        (PretrainingSettings, "--nobj=3", "--nobj is a flag of train_pelican_classifier.py and train_pelican_cov.py"),
        (PretrainingSettings, "-j 3", "-j is a flag of optuna_search.py"),
        (PretrainingSettings, "--num-targets 3", "--num-targets is a flag of train_pelican_cov.py, not"),
    ],
)
def test_unknown_flag(schema, argv, text, capsys):
    """Breaks if the usage is printed, or if a flag of another script is taken for a misspelt one."""
    assert text in message(make_parser(schema, ""), argv, capsys)


def test_flags_of_a_search(capsys):
    """What the training script does not know may be a misspelt flag of the search."""
    parser = make_parser(ClassifierSettings, "")
    parser.further = ("--num-trials",)
    assert "(did you mean --num-trials?)" in message(parser, "--num-trails 3", capsys)


def test_refused_flags_are_not_proposed(capsys):
    """Breaks if a flag that the script refuses is proposed instead of a misspelt one."""
    assert "did you mean --pas" not in message(make_parser(ClassifierSettings, ""), "--passwort a", capsys)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_such_a_parser(script):
    """Breaks if a script uses argparse's own parser, which prints the usage, often longer than a screen."""
    assert "argparse.ArgumentParser(" not in (ROOT / script).read_text()


def test_plain_parser(capsys):
    """A parser of a few flags."""
    parser = OneLineParser("tool")
    parser.add_argument("--out")
    assert "unknown flag --otu (did you mean --out?)" in message(parser, "--otu a", capsys)
    assert "expected one argument" in message(parser, "--out", capsys)
