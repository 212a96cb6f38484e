"""Search spaces: YAML files that say which flags a sweep varies, and over which values."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from puffin.errors import InputError
from puffin.settings.presets import read_yaml

TYPES = {"float": FloatDistribution, "int": IntDistribution}
_KEYS = {"type", "range", "log", "step", "choices", "when", "write"}
_MOST_VALUES = 10_000  # maximum number of values of one parameter, and of combinations in a grid


@dataclass(frozen=True)
class Parameter:
    """A flag that the sweep varies.

    write: text of the flag's value, in which {} is replaced by the sampled value. when: conditions, (argument name,
    allowed values); the flag is left out of a trial unless every argument has one of its allowed values.
    """

    name: str
    distribution: BaseDistribution
    write: str = "{}"
    when: tuple[tuple[str, tuple], ...] = ()

    def flag(self, value) -> str:
        """Return the command-line flag for a value."""
        if isinstance(value, bool):
            return f"--{'' if value else 'no-'}{self.name}"
        return f"--{self.name}={self.write.replace('{}', str(value))}"

    def values(self) -> list:
        """Return all values, for a grid; InputError for a range without a step, and if there are too many."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return list(d.choices)
        if d.step is None or d.log:
            raise InputError(f"--sampler grid: '{self.name}' is a range without steps; give it a step, or choices")
        count = round((d.high - d.low) / d.step) + 1
        if count > _MOST_VALUES:
            raise InputError(
                f"--sampler grid: '{self.name}' has {count} values; expected at most {_MOST_VALUES}: "
                "give it a larger step"
            )
        kind = int if isinstance(d, IntDistribution) else float
        return [kind(d.low + k * d.step) for k in range(count)]


class Space:
    """The parameters of a sweep, in the order of the file.

    fixed: the arguments of the script that are the same in every trial; conditions on other flags use these values."""

    def __init__(self, parameters: list[Parameter], fixed: dict):
        self.parameters, self.fixed = parameters, fixed

    def sample(self, trial: optuna.Trial) -> list[str]:
        """Return flags with the values that the trial suggests, without parameters whose conditions are not met."""
        values, flags = {}, []
        for p in self.parameters:
            known = self.fixed | values
            if all(known.get(name) in wanted for name, wanted in p.when):
                value = _suggest(trial, p)
                values[p.name.replace("-", "_")] = value
                flags.append(p.flag(value))
        return flags

    def grid(self) -> dict[str, list]:
        """Return all values of every parameter; InputError if they cannot be listed, or are too many."""
        for p in self.parameters:
            if p.when:
                raise InputError(
                    f"--sampler grid: '{p.name}' has a condition, which a grid cannot follow; use another sampler"
                )
        grid = {p.name: p.values() for p in self.parameters}
        size = math.prod(map(len, grid.values()))
        if size > _MOST_VALUES:
            raise InputError(
                f"--sampler grid: {size} combinations; expected at most {_MOST_VALUES}: vary less, or "
                "use another sampler"
            )
        return grid

    def grid_size(self) -> int:
        """Return the number of combinations of all values; InputError if they cannot be listed."""
        return math.prod(map(len, self.grid().values()))


def _suggest(trial: optuna.Trial, p: Parameter):
    d = p.distribution
    if isinstance(d, CategoricalDistribution):
        return trial.suggest_categorical(p.name, d.choices)
    suggest = trial.suggest_int if isinstance(d, IntDistribution) else trial.suggest_float
    return suggest(p.name, d.low, d.high, step=d.step, log=d.log)


def read_space(path: str | Path, make_parser: Callable[[], argparse.ArgumentParser], given: dict, fixed: dict) -> Space:
    """Read a search space from its file; check every value as the script would check its flag.

    given: arguments on the command line, which are not varied; fixed: see Space. InputError names the file and the
    entry that is wrong."""
    content = read_yaml(path, "search space", "config/search/*.yaml", "flag: {type: ..., range: [...]}")
    if not content:
        raise InputError(f"{path}: names no flag to vary")
    parser = make_parser()
    parser.exit_on_error = False
    parameters = []
    for name, (entry, source) in content.items():
        where = f"{source}: {name}"
        parameter = _parameter(str(name).replace("_", "-"), entry, where)
        _check_flags(parser, parameter, where)
        for other, _ in parameter.when:
            if other not in fixed:
                raise InputError(f"{where}: when: '{other}' is no flag of this script, see --help")
            earlier = [p.name.replace("-", "_") for p in parameters]
            if other not in earlier and other in [str(n).replace("-", "_") for n in content]:
                raise InputError(f"{where}: when: '{other}' must come before it in the file")
        parameters.append(parameter)
    varied = [p for p in parameters if p.name.replace("-", "_") not in given]
    if not varied:
        raise InputError(f"{path}: the command line fixes every flag of it; nothing is left to vary")
    return Space(varied, fixed)


def _parameter(name: str, entry, where: str) -> Parameter:
    """Make a parameter from one entry of the file."""
    if not isinstance(entry, dict) or not entry.keys() <= _KEYS:
        raise InputError(f"{where}: expected a mapping with some of {', '.join(sorted(_KEYS))}, got {entry!r}")
    try:
        distribution = _distribution(entry)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error
    write = str(entry.get("write", "{}"))
    if "{}" not in write:
        raise InputError(f"{where}: write: expected a text with {{}} for the value, got {write!r}")
    when = entry.get("when", {})
    if not isinstance(when, dict):
        raise InputError(f"{where}: when: expected 'flag: value' or 'flag: [values]', got {when!r}")
    conditions = [(str(k).replace("-", "_"), tuple(v) if isinstance(v, list) else (v,)) for k, v in when.items()]
    return Parameter(name, distribution, write, tuple(conditions))


def _distribution(entry: dict) -> BaseDistribution:
    if "choices" in entry:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices or entry.keys() & {"type", "range", "log", "step"}:
            raise ValueError("expected either 'choices: [...]', or 'type' and 'range'")
        # Optuna stores plain values only, so a list becomes the text of its flag
        return CategoricalDistribution(
            [str(c).replace(" ", "") if isinstance(c, (list, tuple)) else c for c in choices]
        )
    bounds = entry.get("range")
    if entry.get("type") not in TYPES or not isinstance(bounds, list) or len(bounds) != 2:
        raise ValueError(f"expected 'type' ({', '.join(TYPES)}) and 'range: [lowest, highest]', or 'choices: [...]'")
    if not all(isinstance(b, (int, float)) and not isinstance(b, bool) for b in bounds):
        raise ValueError(
            f"range: expected two numbers, got {bounds} (YAML reads 1e-3 as a text: write 1.0e-3 or 0.001)"
        )
    options = {k: entry[k] for k in ("log", "step") if k in entry}
    return TYPES[entry["type"]](*bounds, **options)


def _check_flags(parser: argparse.ArgumentParser, p: Parameter, where: str) -> None:
    """Raise InputError unless the script accepts the flag with every choice, or with both ends of its range."""
    d = p.distribution
    if f"--{p.name}" not in parser._option_string_actions:
        raise InputError(f"{where}: no flag --{p.name} in this script, see --help")
    for value in d.choices if isinstance(d, CategoricalDistribution) else (d.low, d.high):
        try:
            _, unknown = parser.parse_known_args([p.flag(value)])
        except argparse.ArgumentError as error:
            raise InputError(f"{where}: {error.message}") from error
        if unknown:
            raise InputError(f"{where}: the script does not take {unknown[0]}")
