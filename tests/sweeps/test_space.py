"""Search spaces: what a file may contain, and which flags a trial gets from it."""

import argparse
import importlib

import optuna
import pytest

from puffin.errors import InputError
from puffin.settings import roles
from puffin.settings.flags import defaults, parse, settings_of
from puffin.settings.sweep import TASKS
from puffin.sweeps.space import read_space
from tests.conftest import ROOT


def parser() -> argparse.ArgumentParser:
    """Make the parser of a script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--widths", default="[4,4]")
    parser.add_argument("--kind", choices=("a", "b", "c"), default="a")
    parser.add_argument("--deep", action=argparse.BooleanOptionalAction, default=False)
    return parser


SPACE = """
rate: {type: float, range: [0.001, 0.1], log: true}
kind: {choices: [a, b]}
layers: {type: int, range: [2, 6], step: 2, when: {kind: b}}
widths: {type: int, range: [3, 5], write: "[{},{}]"}
deep: {choices: [true, false]}
"""


def space(tmp_path, text, given=()):
    """Read a space from a text. given: names of flags on the command line."""
    file = tmp_path / "space.yaml"
    file.write_text(text)
    fixed = vars(parser().parse_args([]))
    return read_space(file, parser, dict.fromkeys(given), fixed)


def test_flags_follow_the_file(tmp_path):
    """The script accepts every trial's flags; values are in range; `layers` is left out unless its condition holds."""
    chosen, study = space(tmp_path, SPACE), optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    seen = set()
    for _ in range(60):
        flags = chosen.sample(study.ask())
        args = parser().parse_args(flags)
        assert 0.001 <= args.rate <= 0.1 and args.widths in ("[3,3]", "[4,4]", "[5,5]")
        assert any(f.startswith("--layers") for f in flags) == (args.kind == "b")
        seen.add((args.kind, args.deep, args.layers))
    assert seen == {("a", False, 2), ("a", True, 2), *(("b", d, n) for d in (False, True) for n in (2, 4, 6))}


def test_the_command_line_fixes_flags(tmp_path):
    """Flags of the command line are not varied; conditions use their values in `fixed` (kind a: no layers)."""
    chosen = space(tmp_path, SPACE, given=["kind", "rate"])
    names = {f.split("=")[0] for f in chosen.sample(optuna.create_study().ask())}
    assert names <= {"--widths", "--deep", "--no-deep"}
    with pytest.raises(InputError, match="nothing is left"):
        space(tmp_path, "rate: {type: float, range: [1, 2]}", given=["rate"])


def test_grid(tmp_path):
    """A grid has all values; a range without a step has no grid."""
    text = (
        "widths: {type: int, range: [3, 5]}\nrate: {type: float, range: [0.0, 0.3], step: 0.1}\nkind: {choices: [a, c]}"
    )
    grid = space(tmp_path, text).grid()
    assert grid["widths"] == [3, 4, 5] and grid["kind"] == ["a", "c"]
    assert grid["rate"] == pytest.approx([0, 0.1, 0.2, 0.3])
    for text, reason in (
        ("rate: {type: float, range: [0.0, 1.0]}", "without steps"),
        ("layers: {type: int, range: [1, 3], when: {kind: a}}", "condition"),
    ):
        with pytest.raises(InputError, match=reason):
            space(tmp_path, text).grid()


@pytest.mark.parametrize(
    "text, reason",
    [
        ("rat: {type: float, range: [1, 2]}", "no flag --rat "),
        ("rate: {type: float, range: [1e-3, 1]}", "1.0e-3"),
        ("rate: {type: real, range: [1, 2]}", "expected 'type'"),
        ("rate: {type: float, range: [2, 1]}", "low"),
        ("rate: {range: [1, 2], scale: log}", "some of"),
        ("kind: {choices: [a, z]}", "invalid choice"),
        ("layers: {choices: [1, many]}", "invalid int"),
        ("kind: {choices: [a], type: int}", "either 'choices"),
        ("rate: {type: float, range: [1, 2], write: abc}", "{}"),
        ("layers: {type: int, range: [1, 2], when: {nothing: 1}}", "no flag of this script"),
        ("layers: {type: int, range: [1, 2], when: {kind: a}}\nkind: {choices: [a, b]}", "before"),
        ("[1, 2]", "expected 'flag"),
        ("a: [", "not readable"),
    ],
)
def test_bad_files_say_where(tmp_path, text, reason):
    """Errors are found before anything runs, and name the file and the entry."""
    with pytest.raises(InputError, match="space.yaml") as error:
        space(tmp_path, text)
    assert reason in str(error.value)


@pytest.mark.parametrize("task", TASKS)
def test_the_spaces_that_come_with_it(task):
    """Every task has a space in config/search/, and each of its trials is a valid network.

    The spaces for jets keep five blocks of the same width."""
    schema, script = TASKS[task].schema, importlib.import_module(TASKS[task].script)
    chosen = read_space(ROOT / f"config/search/{task}.yaml", script.make_parser, {}, defaults(schema).values)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(60):
        flags = parse(schema, "", chosen.sample(study.ask()))
        assert "lr_init" in flags.given
        flags.settings()  # widths, or tokens, that fit together
        if task in ("classifier", "cov"):
            assert "num_channels_m" in flags.given and flags["num_channels_m"][0] == flags["num_channels_m"][4]


@pytest.mark.parametrize("task", ["classifier", "cov"])
def test_space_of_fine_tuning(task):
    """No trial has a flag that the checkpoint of --pretrained determines, or a decay for frozen blocks."""
    schema, script = TASKS[task].schema, importlib.import_module(TASKS[task].script)
    chosen = read_space(ROOT / "config/search/finetuning.yaml", script.make_parser, {}, defaults(schema).values)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    known = settings_of(schema)
    for _ in range(60):
        flags = parse(schema, "", chosen.sample(study.ask()))
        assert "lr_init" in flags.given and not any(known[name].role is roles.NETWORK for name in flags.given)
        assert flags["finetune"] == "all" or "layer_decay" not in flags.given
