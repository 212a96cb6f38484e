"""How a setting is declared: `setting(...)` as the default of a field of a frozen dataclass.

    @dataclass(frozen=True)
    class Optimisation:
        \"\"\"Length, optimizer, learning rate.\"\"\"

        TITLE: ClassVar[str] = "optimisation"  # of the group in --help
        ROLE: ClassVar[Role] = roles.TRAINING  # of every field that names no other

        batch_size: int = setting(64, "events per minibatch of each process", type=integer(1), flags=("-bs",))

The field's name is the flag's (--batch-size), the preset's and the checkpoint's. A field without `setting` is computed
by the code. A field that is such a dataclass itself contributes its settings.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from puffin.settings.roles import TRAINING, Role


@dataclass(frozen=True)
class Setting:
    """All that is declared about a setting, except its name and default.

    type: from text to a value; choices: the only values; flags: further spellings; shortcuts: flags that set one value
    (--cpu: device "cpu"); many: the flag takes one or more values ("+"), or any number of them ("*"; `bare` is then the
    value of the flag alone); extend: a repeated flag adds to the values; collect: from these values to the value of the
    setting; switch: --name and --no-name; shown: the default in --help, where the value itself does not say it.
    """

    help: str
    type: Callable[[str], Any] = str
    choices: tuple = ()
    flags: tuple[str, ...] = ()
    shortcuts: Mapping[str, Any] = field(default_factory=dict)
    metavar: str | None = None
    many: str = ""
    bare: Any = None
    extend: bool = False
    collect: Callable[[Any], Any] = lambda value: value
    switch: bool = False
    shown: str = ""
    role: Role | None = None

    def convert(self, value) -> Any:
        """Convert a value of a YAML file, as the flag would convert its text; ArgumentTypeError if it does not fit."""
        if self.switch:
            if not isinstance(value, bool):
                raise argparse.ArgumentTypeError(f"expected true or false, got {value!r}")
            return value
        if isinstance(value, dict) or (isinstance(value, list) and not self.many):
            raise argparse.ArgumentTypeError(f"expected a single value, got {value!r}")
        if not self.many:
            return self.collect(self._item(value))
        return self.collect([self._item(item) for item in (value if isinstance(value, list) else [value])])

    def _item(self, value) -> Any:
        converted = self.type("none" if value is None else str(value))
        if self.choices and converted not in self.choices:
            raise argparse.ArgumentTypeError(f"expected one of {', '.join(map(str, self.choices))}, got {value!r}")
        return converted

    def plain(self, value) -> Any:
        """Return the value as stored in checkpoints and presets: lists instead of tuples."""
        if isinstance(value, (tuple, list)):
            return [self.plain(item) for item in value]
        return value

    def canonical(self, value) -> Any:
        """Return a stored value in the one spelling in which values are compared and used."""
        if value is None or not self.many:
            return value
        return self.collect(value if isinstance(value, (list, tuple)) else [value])


def setting(default, help: str, **options) -> Any:
    """Declare a setting: its default, its help text, and further attributes of `Setting`."""
    options.setdefault("switch", isinstance(default, bool))
    return field(default=default, metadata={"setting": Setting(help, **options)})


@dataclass(frozen=True)
class Declared:
    """A setting with its name, the default in a script, the title of its group, and its role."""

    name: str
    setting: Setting
    default: Any
    title: str
    role: Role

    @property
    def flag(self) -> str:
        """The flag: --batch-size for batch_size."""
        return "--" + self.name.replace("_", "-")


def declared(settings, title: str = "settings") -> Iterator[Declared]:
    """Yield every setting of a dataclass of settings, or of an instance, whose values are the defaults."""
    instance = settings() if isinstance(settings, type) else settings
    title = getattr(instance, "TITLE", title)
    for entry in fields(instance):
        value = getattr(instance, entry.name)
        if "setting" in entry.metadata:
            found = entry.metadata["setting"]
            role = found.role or getattr(instance, "ROLE", TRAINING)
            yield Declared(entry.name, found, value, getattr(instance, "TITLES", {}).get(entry.name, title), role)
        elif is_dataclass(value):
            yield from declared(value, title)


def build(settings, values: Mapping[str, Any]) -> Any:
    """Make an instance of a dataclass of settings from values by name; what has no value there keeps its default."""
    instance = settings() if isinstance(settings, type) else settings
    chosen = {}
    for entry in fields(instance):
        if "setting" in entry.metadata:
            if entry.name in values:
                chosen[entry.name] = values[entry.name]
            else:
                chosen[entry.name] = getattr(instance, entry.name)
        elif entry.init and is_dataclass(getattr(instance, entry.name)):
            chosen[entry.name] = build(getattr(instance, entry.name), values)
    return type(instance)(**chosen)
