"""Presets: YAML files that set defaults of flags."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from puffin.errors import InputError, nearest
from puffin.settings.declare import Setting
from puffin.settings.obsolete import Obsolete


class Entry(NamedTuple):
    """A value of a YAML file, and its place there, such as "config/11k.yaml line 12"."""

    value: Any
    source: str


def read_preset(
    path: str | Path, settings: Mapping[str, Setting], obsolete: Mapping[str, Obsolete]
) -> dict[str, Entry]:
    """Read the settings of a preset file by name, checked like the flags; obsolete ones are checked and left out.

    InputError for an unknown key or a bad value."""
    found: dict[str, Entry] = {}
    for key, (value, source) in read_yaml(path, "preset", "config/*.yaml", "name: value").items():
        name = key.replace("-", "_")
        flag = key.replace("_", "-")
        if name in found:
            raise InputError(f"{source}: {key}: set in {found[name].source} too; delete one of the lines")
        if name in settings and name != "yaml":
            try:
                found[name] = Entry(settings[name].convert(value), source)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise InputError(f"{source}: {key}: {error}") from error
        elif flag in obsolete:
            reason = obsolete[flag].refusal(value)
            if reason:
                raise InputError(f"{source}: {key}: {value}: {reason}")
        else:
            raise InputError(
                f"{source}: unknown key '{key}'{nearest(name, settings)}; keys are the names of flags, see --help"
            )
    return found


def read_yaml(path: str | Path, kind: str, ours: str, line: str) -> dict[str, Entry]:
    """Read the mapping in a YAML file; InputError if the file is missing, holds none, or has a key twice.

    For the messages: kind of file, where those of this repository are, and what a line looks like."""
    import yaml  # here, so that a script can say how to install it

    path = Path(path)
    if not path.is_file():
        problem = "is a folder; expected a file" if path.is_dir() else f"no such {kind}"
        raise InputError(f"{path}: {problem}; those that come with Puffin are {ours}")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            found = "nothing" if node is None else type(loader.construct_document(node)).__name__
            raise InputError(f"{path}: expected '{line}' lines, got {found}")
        return _entries(loader, node, path)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:160]})") from error


def _entries(loader, node, path: Path) -> dict[str, Entry]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key.value, str):
            raise InputError(f"{path} line {line}: expected the name of a flag, got a list or a mapping")
        if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
            raise InputError(f"{path} line {line}: {key.value}: set in line {lines[key.value]} too; delete one of them")
        lines.setdefault(str(key.value), line)
    loader.flatten_mapping(node)  # replaces "<<: *other" by its entries; those of this mapping come last and win
    entries: dict[str, Entry] = {}
    for key, value in node.value:
        name = str(loader.construct_object(key, deep=True))
        entries[name] = Entry(loader.construct_object(value, deep=True), f"{path} line {key.start_mark.line + 1}")
    return entries
