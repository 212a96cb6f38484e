"""Flags whose settings are not complete yet, and flags that differ from a checkpoint."""

import pytest

from puffin.errors import InputError
from puffin.settings.clouds import PretrainingSettings
from puffin.settings.common import RunSettings
from puffin.settings.flags import defaults, parse
from puffin.settings.jets import ClassifierSettings


def test_a_part_needs_no_other():
    """Widths that fit only the checkpoint, or only the trial of a sweep, do not hide where the run's files are."""
    flags = parse(ClassifierSettings, "", ["--num-channels-2to2", "[4,4]", "--prefix", "a"])
    assert flags.part(RunSettings).prefix == "a"
    with pytest.raises(InputError, match="one entry per block"):
        flags.settings()


@pytest.mark.parametrize(
    "schema, argv",
    [
        (ClassifierSettings, "--nobj 20"),
        (ClassifierSettings, "--scale 2"),
        (ClassifierSettings, "--target jet_tag"),
        (ClassifierSettings, "--scalars-keys d0val"),
        (ClassifierSettings, "--read-pid"),
        (ClassifierSettings, "--no-shuffle"),
        (PretrainingSettings, "--energy-threshold 0.5"),
        (PretrainingSettings, "--emin 0.01"),
        (PretrainingSettings, "--no-remove-led"),
        (PretrainingSettings, "--min-points 3"),
        (PretrainingSettings, "--no-rotate"),
    ],
)
def test_resuming_keeps_the_input(schema, argv):
    """A run cannot be resumed with other data, or another input of the network. Breaks if a role permits it."""
    flags = parse(schema, "", argv.split())
    with pytest.raises(InputError, match=f"{argv.split()[0].replace('--no-', '--')} .*cannot be continued"):
        flags.starting_from(defaults(schema).plain(), "resume", "a.pt")


def test_changes_are_listed():
    """What may change is listed with the old value; what was not given, or belongs to the command, is not."""
    stored = parse(ClassifierSettings, "", "--lr-init 0.001 --num-epoch 9 --no-plot --prefix a".split()).plain()
    flags = parse(
        ClassifierSettings, "", "--lr-init 0.0005 --plot --predict train test --prefix b --threads 3 --clip 0".split()
    )
    flags = flags.starting_from(stored, "resume", "a.pt")
    assert flags.changes_from(stored, "resume") == [
        "--predict test -> train test",
        "--plot off -> on",
        "--lr-init 0.001 -> 0.0005",
    ]
    assert flags.changes_from(stored, "evaluate") == []
    fewer = parse(ClassifierSettings, "", ["--nobj", "20"])
    assert fewer.changes_from(defaults(ClassifierSettings).plain(), "evaluate") == ["--nobj -1 -> 20"]


def test_contradiction_names_the_line_of_the_preset(tmp_path):
    """Nobody typed the flag, so the message names the file and the line, and the flag that wins over it."""
    preset = tmp_path / "p.yaml"
    preset.write_text("# a comment\nnobj: 20\nread-pid: true\nconfig: s\n")
    stored = defaults(ClassifierSettings).plain()
    given = ["--yaml", str(preset)]
    for further, line, remedy in (
        ([], 3, "--no-read-pid"),
        (["--no-read-pid"], 2, "--nobj -1"),
        (["--nobj", "-1", "--no-read-pid"], 4, "--config M"),
    ):
        flags = parse(ClassifierSettings, "", [*given, *further])
        with pytest.raises(InputError) as refusal:
            flags.starting_from(stored, "resume", "a.pt")
        assert f"({preset} line {line})" in str(refusal.value)
        assert f"delete that line, or add {remedy} to the command" in str(refusal.value)
    flags = parse(ClassifierSettings, "", [*given, "--nobj", "-1", "--no-read-pid", "--config", "x"])
    with pytest.raises(InputError, match="--config x contradicts .*; leave the flag out"):
        flags.starting_from(stored, "resume", "a.pt")


@pytest.mark.parametrize(
    "text, message",
    [
        ("nobj: 3\nbatch_size: 9\nnobj: 4\n", "line 3: nobj: set in line 1 too"),
        ("batch-size: 3\nbatch_size: 9\n", "p.yaml line 1 too"),
        ("\n\nnobj: many\n", "line 3: nobj: expected"),
        ("lr_int: 3\n", r"line 1: unknown key 'lr_int' \(did you mean lr_init\?\)"),
        ("nobj: *a\n", "not readable as YAML"),
        ("- nobj\n", "expected 'name: value' lines, got list"),
        ("", "got nothing"),
    ],
)
def test_bad_preset(tmp_path, text, message):
    """The message names the line. Breaks if the second of two values wins without a word."""
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        parse(ClassifierSettings, "", ["--yaml", str(tmp_path / "p.yaml")])


def test_merged_preset(tmp_path):
    """YAML's anchors and merge keys work; an entry beside the merge key wins."""
    (tmp_path / "p.yaml").write_text("class_weights: &w 1,2\n<<: {nobj: 3, scale: 2}\nnobj: 4\ntarget: *w\n")
    flags = parse(ClassifierSettings, "", ["--yaml", str(tmp_path / "p.yaml")])
    assert (flags["nobj"], flags["scale"], flags["target"]) == (4, 2.0, "1,2")
