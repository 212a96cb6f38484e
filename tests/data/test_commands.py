"""What the scripts in data/ share: flags, checks of outputs, errors in one line."""

import pytest

from puffin.data.commands import Parser, check_outputs, converter_parser, progress, run_converter
from puffin.errors import InputError


def test_outputs_are_checked(tmp_path):
    """Breaks if an output is overwritten without --overwrite, an input even with it, or a missing input passes."""
    source, existing = tmp_path / "in.h5", tmp_path / "there.h5"
    source.touch(), existing.touch()
    parse = converter_parser("", "", "").parse_args
    check_outputs(parse([str(source), "--out", "x"]), [tmp_path / "new.h5"])
    check_outputs(parse([str(source), "--out", "x", "--overwrite"]), [existing])
    for words, outputs, message in (
        ([source], [existing], "there.h5: already exists. Choose another --out or pass --overwrite"),
        ([source, "--overwrite"], [tmp_path / "." / "in.h5"], "is an input"),
        ([tmp_path / "no.h5"], [], "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            check_outputs(parse([*map(str, words), "--out", "x"]), outputs)


def test_bad_flags_are_one_line(capsys):
    """Breaks if a number out of range is accepted, or the line does not name the flag."""
    with pytest.raises(SystemExit) as stop:
        converter_parser("", "", "").parse_args("in.h5 --out x --nobj 0".split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "argument --nobj: expected an integer of at least 1, got '0'" in error


def test_help_shows_defaults():
    """Breaks if --help lacks the default of a flag, or shows None or False for a flag without one."""
    parser = converter_parser("What it does.\n\n    an example", "input files", "all")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    text = parser.format_help()
    assert "    an example" in text  # lines are not joined
    text = " ".join(text.split())
    assert "hardest first (default: all)" in text and "random seed (default: 0)" in text
    assert "None" not in text and "False" not in text and text.count("default") == 2


@pytest.mark.parametrize("flags", [["root://eos.cern.ch//a.root", "--out", "o"], ["a", "--out", "https://b.org/o.h5"]])
def test_addresses_are_refused(flags, capsys):
    """As they were given: a Path would make root:/eos.cern.ch/a.root of the first. Breaks if 'no such file' is all."""
    with pytest.raises(SystemExit) as stop:
        converter_parser("", "files", "all").parse_args(flags)
    error = capsys.readouterr().err
    address = next(flag for flag in flags if "://" in flag)
    assert stop.value.code == 2 and f"{address}: expected a file, got an address. Copy the file first, with" in error


def test_failures_are_one_line(capsys):
    """Breaks if a failure shows as a traceback or several lines, or ends with status 0."""

    def fails(error):
        def main(argv):
            raise error

        return main

    for error, text in (
        (InputError("a\nb"), "error: a b"),
        (ValueError("x"), "error: ValueError: x"),
        (KeyboardInterrupt(), "interrupted"),
    ):
        with pytest.raises(SystemExit) as stop:
            run_converter(fails(error))
        assert stop.value.code.startswith(text) and "\n" not in stop.value.code
    with pytest.raises(SystemExit) as stop:
        Parser(prog="p").parse_args(["--none"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_progress_after_a_leap(capsys):
    """Breaks if a bar that leaps over finished jets waits for as many new ones before it moves again."""
    with progress(1000, "jets") as bar:
        bar.mininterval = 0
        bar.update(900)
        bar.update(1)
        assert "| 901/1000" in capsys.readouterr().err
