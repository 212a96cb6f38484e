"""Make a command line (argparse) from declared settings, and settings from flags, presets and checkpoints.

The command line wins over the presets of --yaml, and these win over the defaults of the script. `Flags` stores which
values were given, because a value from a checkpoint replaces a default but not a flag (settings/roles.py).
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from puffin.errors import InputError
from puffin.settings.declare import Declared, Setting, build, declared
from puffin.settings.messages import with_flags
from puffin.settings.obsolete import OBSOLETE, OBSOLETE_OF_SWEEPS, Obsolete, add_obsolete_flags
from puffin.settings.parser import OneLineParser
from puffin.settings.presets import Entry, read_preset
from puffin.settings.roles import FIXED, OWN, Role

_LAST_GROUPS = ("training", "device", "reports", "pictures")  # of --help


class Parser(OneLineParser):
    """The parser of a training script, or of a search: its help is wide enough to read."""

    def __init__(self, description: str, epilog: str | None = None):
        super().__init__(
            description=description,
            epilog=epilog,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
        )

    def scripts_with(self, flag: str) -> list[str]:
        """Return the names of other scripts that have the flag."""
        from puffin.settings import scripts  # it knows the settings of all scripts, which import this module

        return scripts.scripts_with(flag)

    def format_usage(self) -> str:
        """Show the form of a command; the flags are listed below it."""
        return f"usage: {self.prog} [FLAGS]\n"

    def format_help(self) -> str:
        """Show the form of a command, the description, and the groups of flags."""
        self.usage = f"{self.prog} [FLAGS]"
        return super().format_help()


class _Values(argparse.Action):
    """Values of a flag with several: converted together, added to earlier ones if the flag can be repeated."""

    def __init__(self, *args, declared_setting: Setting, **kwargs):
        super().__init__(*args, **kwargs)
        self.declared_setting = declared_setting

    def __call__(self, parser, namespace, values, option_string=None):
        found = self.declared_setting
        values = list(values) or list(found.bare or ())
        if found.extend:
            values = [*getattr(namespace, self.dest, ()), *values]
        try:
            setattr(namespace, self.dest, found.collect(values))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def settings_of(schema) -> dict[str, Declared]:
    """Return the settings of a script by name, with the roles that they have in it."""
    own_roles: Mapping[str, Role] = getattr(schema, "ROLES", {})
    return {d.name: replace(d, role=own_roles.get(d.name, d.role)) for d in declared(schema)}


def hidden_settings(schema) -> dict[str, Obsolete]:
    """Return the settings that a script has no use for: their default is accepted, other values are refused."""
    found = {}
    for name, reason in getattr(schema, "HIDDEN", {}).items():
        default = settings_of(schema)[name].default
        found[name] = Obsolete((str(default).lower(),), reason)
    return found


def make_parser(schema, description: str, epilog: str | None = None, is_sweep: bool = False) -> Parser:
    """Make the parser of a script. It gives only the flags that are on the command line: defaults come later."""
    parser = Parser(description, epilog)
    hidden = hidden_settings(schema)
    entries = [entry for entry in settings_of(schema).values() if entry.name not in hidden]
    titles = sorted({entry.title: None for entry in entries}, key=lambda title: title in _LAST_GROUPS)
    groups = {title: parser.add_argument_group(title) for title in titles}
    for entry in entries:
        _add(groups[entry.title], entry)
    obsolete = OBSOLETE if is_sweep else OBSOLETE | OBSOLETE_OF_SWEEPS
    add_obsolete_flags(parser, obsolete | {name.replace("_", "-"): why for name, why in hidden.items()})
    return parser


def _add(group: argparse._ArgumentGroup, entry: Declared) -> None:
    found, common = entry.setting, {"dest": entry.name, "default": argparse.SUPPRESS}
    text = f"{found.help} (default: {shown_default(entry)})".replace("%", "%%")
    if found.switch:
        group.add_argument(entry.flag, *found.flags, action=argparse.BooleanOptionalAction, help=text, **common)
    else:
        options: dict[str, Any] = {"type": found.type, "metavar": found.metavar, "help": text}
        if found.choices:
            options["choices"] = found.choices
        if found.many:
            options |= {"nargs": found.many, "action": _Values, "declared_setting": found}
        group.add_argument(entry.flag, *found.flags, **options, **common)
    for flag, value in found.shortcuts.items():
        shown = value if isinstance(value, str) else " ".join(value) or "no value"
        group.add_argument(flag, action="store_const", const=value, help=f"same as {entry.flag} {shown}", **common)


def shown_default(entry: Declared) -> str:
    """Return a default as --help shows it."""
    return entry.setting.shown or shown_value(entry.default)


def shown_value(value) -> str:
    """Return the value of a setting as messages show it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return " ".join(str(list(v)) if isinstance(v, tuple) else str(v) for v in value) or "none"
    return str(value) or "none"


@dataclass(frozen=True)
class Flags:
    """The values of all settings of a script by name.

    given: names of those on the command line or in a preset; typed: of those on the command line itself; sources: file
    and line by the name of each that is from a preset, and the file of each that is from a checkpoint."""

    schema: type
    values: Mapping[str, Any]
    given: frozenset[str] = frozenset()
    typed: frozenset[str] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def settings(self) -> Any:
        """Build the settings of the script, group by group; InputError if values contradict each other."""
        try:
            return build(self.schema, self.values)
        except ValueError as error:
            raise InputError(self.explained(error)) from error

    def explained(self, error: ValueError) -> str:
        """Return the message of settings that contradict each other, with flags, and the file that a value is from."""
        return with_flags(str(error), self.schema, self.sources)

    def part(self, settings: type) -> Any:
        """Build the settings of one part alone, whatever the others hold: they may not be complete yet."""
        return build(settings, self.values)

    def changed(self, **values) -> "Flags":
        """Return the same with other values."""
        return replace(self, values={**self.values, **values})

    def plain(self) -> dict[str, Any]:
        """Return all values as they are stored in checkpoints: plain types, lists instead of tuples."""
        known = settings_of(self.schema)
        return {name: known[name].setting.plain(value) for name, value in self.values.items()}

    def preset(self, names: Iterable[str] | None = None, of_run: bool = False) -> dict[str, Any]:
        """Return values for a preset file, all or those named; of_run: with those that only a run's own preset has."""
        wanted = ("always", "run") if of_run else ("always",)
        known = settings_of(self.schema)
        names = set(self.values if names is None else names)
        plain = self.plain()
        return {
            name: plain[name]
            for name in sorted(names)
            if known[name].role.preset in wanted and plain[name] is not None and name not in self.schema.HIDDEN
        }

    def not_given(self, *names: str) -> "Flags":
        """Return the same, as if these flags had not been given; their values stay."""
        return replace(self, given=self.given - set(names))

    def starting_from(
        self,
        stored: Mapping[str, Any],
        purpose: str,
        source: str | Path,
        roles: Mapping[str, Role] = MappingProxyType({}),
    ) -> "Flags":
        """Take over the settings of a checkpoint, as the role of each says.

        stored: its settings; what it lacks, and what this script does not know, stays. purpose: resume, evaluate or
        finetune. roles: of settings that this time have another role. InputError if a flag contradicts the
        checkpoint."""
        values, sources = dict(self.values), dict(self.sources)
        for name, entry in settings_of(self.schema).items():
            wanted = getattr(roles.get(name, entry.role), purpose)
            if name not in stored or wanted == OWN:
                continue
            value = entry.setting.canonical(_plain(entry, stored[name], source))
            if name not in self.given:
                values[name], sources[name] = value, str(source)
            elif wanted == FIXED and value != self.values[name]:
                role = roles.get(name, entry.role)
                raise InputError(self._contradiction(entry, role, value, source))
        return replace(self, values=values, sources=sources)

    def changes_from(self, stored: Mapping[str, Any], purpose: str) -> list[str]:
        """Return what was given and differs from the settings of a checkpoint, such as "--lr-init 0.001 -> 0.0005".

        Settings that belong to a command, and not to the checkpoint, are left out; the arguments are those of
        `starting_from`."""
        changes = []
        for name, entry in settings_of(self.schema).items():
            kept = getattr(entry.role, purpose) != OWN and entry.role.preset == "always"  # a name may differ
            if kept and name in stored and name in self.given:
                value, now = entry.setting.canonical(stored[name]), self.values[name]
                if value != now:
                    changes.append(f"{entry.flag} {shown_value(value)} -> {shown_value(now)}")
        return changes

    def _contradiction(self, entry: Declared, role: Role, stored, source: str | Path) -> str:
        line = self.sources.get(entry.name)
        where = f"{entry.flag} {shown_value(self.values[entry.name])}" + (f" ({line})" if line else "")
        trained = shown_value(stored)
        if role.evaluate == FIXED:
            problem = f"{where} contradicts {source}, which was trained with {trained}"
        else:
            problem = f"{where}: the run was started with {trained}, and cannot be continued with another value"
        if line is None:
            return f"{problem}; leave the flag out"
        return f"{problem}; delete that line, or add {_typed(entry, stored)} to the command"


def _plain(entry: Declared, value, source: str | Path):
    """Return a value of a checkpoint; InputError if it is of a kind that this setting never has."""

    def is_plain(item) -> bool:
        if isinstance(item, (list, tuple)):
            return all(map(is_plain, item))
        return item is None or isinstance(item, (bool, int, float, str))

    fits = is_plain(value)
    if value is not None and isinstance(entry.default, str):
        fits = isinstance(value, (str, tuple, list))
    elif value is not None and isinstance(entry.default, (int, float)):
        fits = isinstance(value, (int, float))
    if not fits:
        raise InputError(
            f"{source}: is damaged: {entry.flag} is stored as {type(value).__name__} {str(value)[:40]!r}; use another "
            "checkpoint"
        )
    return value


def _typed(entry: Declared, value) -> str:
    """Return the flag with a value as one types it."""
    if entry.setting.switch:
        return entry.flag if value else entry.flag.replace("--", "--no-", 1)
    return f"{entry.flag} {shlex.join(map(str, value)) if isinstance(value, tuple) else shlex.quote(str(value))}"


def defaults(schema) -> Flags:
    """Return the defaults of a script."""
    return Flags(schema, {name: entry.default for name, entry in settings_of(schema).items()})


def parse(schema, description: str, argv: Sequence[str] | None = None) -> Flags:
    """Parse a command line, with its presets.

    InputError for a preset that is missing or has an unknown or bad entry."""
    typed = vars(make_parser(schema, description).parse_args(argv))
    return with_presets(schema, typed)


def with_presets(schema, typed: Mapping[str, Any]) -> Flags:
    """Add presets and defaults to the values that are on a command line."""
    presets: dict[str, Entry] = {}
    known, hidden = settings_of(schema), hidden_settings(schema)
    inert = OBSOLETE | OBSOLETE_OF_SWEEPS | {name.replace("_", "-"): why for name, why in hidden.items()}
    usable = {name: entry.setting for name, entry in known.items() if name not in hidden}
    for path in typed.get("yaml", ()):
        presets |= read_preset(path, usable, inert)
    values = {name: entry.default for name, entry in known.items()}
    values |= {name: entry.value for name, entry in presets.items()} | dict(typed)
    sources = {name: entry.source for name, entry in presets.items() if name not in typed}
    return Flags(schema, values, frozenset(presets) | frozenset(typed), frozenset(typed), sources)


def command() -> str:
    """Return the command of this process, without the folder of the script."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
