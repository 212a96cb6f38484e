"""Command lines with presets: a YAML file sets defaults, the command line wins."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from puffin.errors import InputError


def parse_arguments(
    make_parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None
) -> tuple[argparse.Namespace, set[str]]:
    """Arguments, and the names of those that were given on the command line or in a preset.

    InputError for a preset that is missing, is not a mapping, or has an unknown key or a bad value."""
    parser, given = make_parser(), given_flags(make_parser, argv)
    presets: dict = {}
    for name in given.get("yaml", []):
        presets |= read_preset(name, parser)
    parser.set_defaults(**presets)
    return parser.parse_args(argv), set(given) | set(presets)


def given_flags(make_parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None) -> dict:
    """The arguments that the command line itself gives, without presets and defaults."""
    bare = make_parser()
    for action in bare._actions:
        action.default = argparse.SUPPRESS
    bare._defaults.clear()  # of set_defaults
    return vars(bare.parse_args(argv))


def read_preset(path: str | Path, parser: argparse.ArgumentParser) -> dict:
    """Settings of a preset file by argument name, checked like the flags."""
    content = read_yaml(path, "preset", "config/*.yaml", "name: value")
    # several flags may share a name (--device, --cpu): the first one has its type and choices
    actions = {a.dest: a for a in reversed(parser._actions) if a.option_strings and a.dest not in ("help", "yaml")}
    settings = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in actions:
            raise InputError(f"{path}: unknown key '{key}'; keys are the names of flags, see --help")
        settings[name] = _checked(actions[name], value, f"{path}: {key}")
    return settings


def read_yaml(path: str | Path, kind: str, ours: str, line: str) -> dict:
    """The mapping of a YAML file; InputError if it is missing or holds none.

    kind: what the file is; ours: where those of this repository are; line: what one looks like."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such {kind}; those that come with Puffin are {ours}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:160]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected '{line}' lines, got {type(content).__name__}")
    return content


def _checked(action: argparse.Action, value, where: str):
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0 and isinstance(action.const, bool):
        if not isinstance(value, bool):
            raise InputError(f"{where}: expected true or false, got {value!r}")
        return value
    if isinstance(value, (list, dict)):
        if action.nargs not in ("+", "*") or isinstance(value, dict):
            raise InputError(f"{where}: expected a single value, got {value!r}")
        return [_converted(action, item, where) for item in value]
    converted = _converted(action, value, where)
    return [converted] if action.nargs in ("+", "*") else converted


def _converted(action: argparse.Action, value, where: str):
    """One value as the flag would take it."""
    text = "none" if value is None else str(value)
    try:
        converted = action.type(text) if action.type is not None else text
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{where}: {error}") from error
    if action.choices is not None and converted not in action.choices:
        raise InputError(f"{where}: expected one of {', '.join(map(str, action.choices))}, got {value!r}")
    return converted
