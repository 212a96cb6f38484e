"""Every flag of every script: it has a range or choices, a default in --help, and survives presets and checkpoints."""

import io

import pytest
import torch
import yaml

from puffin.errors import InputError
from puffin.settings import roles
from puffin.settings.clouds import PointSegmentationSettings, PretrainingSettings
from puffin.settings.flags import defaults, make_parser, parse, settings_of, shown_default
from puffin.settings.jets import ClassifierSettings, RegressorSettings
from puffin.settings.sweep import SweepSettings

SCRIPTS = {
    "classifier": ClassifierSettings,
    "cov": RegressorSettings,
    "pointmae": PretrainingSettings,
    "segmentation": PointSegmentationSettings,
}
EVERY = [
    pytest.param(schema, entry, id=f"{name}-{entry.name}")
    for name, schema in {**SCRIPTS, "sweep": SweepSettings}.items()
    for entry in settings_of(schema).values()
    if entry.name not in getattr(schema, "HIDDEN", {})
]
# text that no list of choices could hold: names of files, folders, keys and hosts
FREE_TEXT = set(
    "yaml loadfile workdir logdir modeldir predictdir datadir testfile pseudo_labels unlabelled weights_key pretrained "
    "space storage host user database copy_to copy_from metric".split()
)
ANY_INTEGER = {"seed", "sampler_seed"}
BAD = {"scalars_keys": "d0val:cube", "pretrained_classes": "0,x"}  # where an empty text is a value
# a valid value that is not the default, where a rule does not find one
VALUES = {
    "prefix": "other",
    "study_name": "other",
    "target": "jet_tag",
    "columns": "px,py,pz,E",
    "scalars_keys": "d0val:tanh",
    "num_channels_m": "[[4],[5],[6],[7],[8]]",
    "num_channels_2to2": "[4,5,6,7,8]",
    "num_channels_m_out": "[9,8]",
    "num_channels_out": "7",
    "config": "sM",
    "config_out": "sx",
    "batchnorm": "i",
    "class_weights": "1,2.5",
    "loss": {"cov": "m:1,psi:0.5", "segmentation": "dice:2,nll"},
    "radius": "0.01",
    "upscale": "300",
    "layers": "2 5",
    "num_channels_scalar": "3",
    "decoder_depth": "2",
    "num_trials": "7",
    "heartbeat": "2.5",
    "head_dropout": "0.25",
}


def other_value(entry, schema) -> str:
    """The text of a valid value that is not the default."""
    found = VALUES.get(entry.name)
    if isinstance(found, dict):
        found = found["cov" if schema is RegressorSettings else "segmentation"]
    if found is None and entry.setting.choices:
        default = entry.default if isinstance(entry.default, tuple) else (entry.default,)
        found = next(str(choice) for choice in entry.setting.choices if choice not in default)
    if found is None:
        found = "text" if entry.name in FREE_TEXT else "0.5" if _takes(entry, "0.5") else "3"
    return found


def _takes(entry, text) -> bool:
    try:
        entry.setting.type(text)
    except Exception:
        return False
    return True


def flag_with(entry, schema) -> list[str]:
    """The flag that sets another value than the default."""
    if entry.setting.switch:
        return [entry.flag.replace("--", "--no-", 1) if entry.default else entry.flag]
    return [entry.flag, *other_value(entry, schema).split(" ")]


@pytest.mark.parametrize("schema, entry", EVERY)
def test_range_or_choices(schema, entry):
    """A number has a range, a name has choices or a check; breaks if a flag takes any text by accident."""
    found = entry.setting
    if found.switch or found.choices or entry.name in FREE_TEXT:
        return
    bad = BAD.get(entry.name, "")
    assert not _takes(entry, bad), "the type accepts any text"
    if _takes(entry, "3") and isinstance(found.type("3"), (int, float)):
        expected = {"nan", "inf", "x"} if entry.name in ANY_INTEGER else {"nan", "inf", "x", "-2", "-7.5", "-1e9"}
        assert not any(_takes(entry, text) for text in expected)


@pytest.mark.parametrize("schema, entry", EVERY)
def test_default_is_in_the_help(schema, entry):
    """--help shows what happens without the flag."""
    parser = make_parser(schema, "", is_sweep=schema is SweepSettings)
    (action,) = [a for a in parser._actions if entry.flag in a.option_strings]
    assert f"(default: {shown_default(entry)})" in action.help % vars(action)
    assert entry.flag in parser.format_help()


@pytest.mark.parametrize("schema, entry", EVERY)
def test_bad_value_is_refused(schema, entry, capsys):
    """The parser names the flag, before anything else happens."""
    if entry.name in FREE_TEXT or entry.setting.switch:
        return
    with pytest.raises(SystemExit) as stop:
        make_parser(schema, "", is_sweep=schema is SweepSettings).parse_args(
            [f"{entry.flag}={BAD.get(entry.name, '')}"]
        )
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and entry.flag in line


@pytest.mark.parametrize("schema, entry", [case for case in EVERY if case.values[0] is not SweepSettings])
def test_round_trip(schema, entry, tmp_path):
    """flag -> preset -> checkpoint -> flag: the value is the same everywhere, and agrees with itself."""
    typed = flag_with(entry, schema)
    flags = parse(schema, "", typed) if entry.name != "yaml" else defaults(schema)
    value = flags[entry.name]
    if entry.name != "yaml":
        assert value != entry.default and entry.name in flags.typed
    if entry.role.preset != "never":
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(flags.preset(of_run=True)))
        again = parse(schema, "", ["--yaml", str(tmp_path / "run.yaml")])
        assert again[entry.name] == value and entry.name in again.given and entry.name not in again.typed
    file = io.BytesIO()
    torch.save(flags.plain(), file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    for purpose in ("resume", "evaluate", "finetune"):
        taken = defaults(schema).starting_from(stored, purpose, "a.pt")[entry.name]
        assert taken == (entry.default if getattr(entry.role, purpose) == roles.OWN else value)
        assert flags.starting_from(stored, purpose, "a.pt")[entry.name] == value


@pytest.mark.parametrize("name", SCRIPTS)
def test_roles(name):
    """A flag that contradicts a checkpoint is refused where its role says so, and only there."""
    schema = SCRIPTS[name]
    stored = defaults(schema).plain()
    for entry in settings_of(schema).values():
        if entry.name in (*schema.HIDDEN, "yaml"):
            continue
        flags = parse(schema, "", flag_with(entry, schema))
        for purpose in ("resume", "evaluate", "finetune"):
            if getattr(entry.role, purpose) == roles.FIXED:
                with pytest.raises(InputError, match=entry.flag):
                    flags.starting_from(stored, purpose, "a.pt")
            else:
                assert flags.starting_from(stored, purpose, "a.pt")[entry.name] == flags[entry.name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_hidden_flags(name, tmp_path):
    """Settings without a use are not in --help; old presets may hold their default; other values are refused."""
    schema = SCRIPTS[name]
    text = make_parser(schema, "").format_help()
    for hidden in schema.HIDDEN:
        entry = settings_of(schema)[hidden]
        assert f"{entry.flag} " not in text and f"{entry.flag}," not in text
        (tmp_path / "old.yaml").write_text(yaml.safe_dump({hidden: entry.default}))
        assert parse(schema, "", ["--yaml", str(tmp_path / "old.yaml")])[hidden] == entry.default
        (tmp_path / "new.yaml").write_text(yaml.safe_dump({hidden: "other" if entry.default != "other" else "x"}))
        for argv in (flag_with(entry, schema), ["--yaml", str(tmp_path / "new.yaml")]):
            with pytest.raises(InputError, match=schema.HIDDEN[hidden].split(";")[0][:20].replace("(", r"\(")):
                parse(schema, "", argv)
