"""Presets: YAML files that set defaults of flags."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from puffin.errors import InputError
from puffin.settings.declare import Setting
from puffin.settings.obsolete import Obsolete


def read_preset(path: str | Path, settings: Mapping[str, Setting], obsolete: Mapping[str, Obsolete]) -> dict[str, Any]:
    """Read the settings of a preset file by name, checked like the flags; obsolete ones are checked and left out.

    InputError for an unknown key or a bad value."""
    content = read_yaml(path, "preset", "config/*.yaml", "name: value")
    found = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        flag = str(key).replace("_", "-")
        if name in settings and name != "yaml":
            try:
                found[name] = settings[name].convert(value)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise InputError(f"{path}: {key}: {error}") from error
        elif flag in obsolete:
            reason = obsolete[flag].refusal(value)
            if reason:
                raise InputError(f"{path}: {key}: {value}: {reason}")
        else:
            raise InputError(f"{path}: unknown key '{key}'; keys are the names of flags, see --help")
    return found


def read_yaml(path: str | Path, kind: str, ours: str, line: str) -> dict:
    """Read the mapping in a YAML file; InputError if the file is missing or holds none.

    For the messages: kind of file, where those of this repository are, and what a line looks like."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such {kind}; those that come with Puffin are {ours}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:160]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected '{line}' lines, got {type(content).__name__}")
    return content
