"""Types of flags: functions from text to a value, which refuse what makes no sense."""

import argparse
import json
import math
from collections.abc import Callable, Collection


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Make an argparse type for integers from minimum to maximum, both included."""
    limit = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"expected an integer {limit}, got {text!r}")
        return value

    return convert


def number(
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Callable[[str], float]:
    """Make an argparse type for finite numbers: minimum <= x <= maximum and above < x < below, if given."""
    if minimum is not None and maximum is not None:
        limits = f" from {minimum:g} to {maximum:g}"
    else:
        parts = {"of at least": minimum, "above": above, "of at most": maximum, "below": below}
        limits = " and".join(f" {words} {limit:g}" for words, limit in parts.items() if limit is not None)

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        inside = (
            math.isfinite(value)
            and (minimum is None or value >= minimum)
            and (maximum is None or value <= maximum)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not inside:
            raise argparse.ArgumentTypeError(f"expected a number{limits}, got {text!r}")
        return value

    return convert


def count_or_all(text: str) -> int:
    """Parse a number of at least 1, or -1 for all."""
    if text.strip() == "-1":
        return -1
    try:
        return integer(1)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, or -1 for all, got {text!r}") from None


def any_integer(text: str) -> int:
    """Parse a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None


def file_name(text: str) -> str:
    """Accept what can begin the name of a file: not empty, no folder, not hidden, printable, not like a flag.

    A prefix up to its first dash names the table of metrics, so one that begins with a dash would leave no name."""
    if not text or "/" in text or text.startswith((".", "-")) or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected a plain file name, got {text!r}")
    return text


def dataset_key(text: str) -> str:
    """Accept the name of a data set in an HDF5 file, or several separated by commas."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of a data set in the HDF5 file, got nothing")
    return text


# -- widths of networks ----------------------------------------------------------------------------------------------


def widths(text: str) -> int | list:
    """Parse a width, or a JSON list of widths (a list of lists for message networks): 25 or [25,15] or [[25],[25]]."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not _positive(value):
        raise argparse.ArgumentTypeError(
            f"expected a width of at least 1, or a list such as [25,15] or [[25],[25]], got {text!r}"
        )
    return value


def _positive(value) -> bool:
    if isinstance(value, list):
        return all(map(_positive, value))
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def flat_widths(values: int | list | tuple) -> tuple[int, ...]:
    """Widths in one spelling: 25, [25], [[25, 15]] and [25, 15] become tuples of numbers."""
    values = [values] if isinstance(values, int) else list(values)
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = list(values[0])
    return _numbers(values)


def _numbers(values: list | tuple) -> tuple[int, ...]:
    """Return widths as a tuple; ArgumentTypeError for lists within them."""
    if not all(isinstance(value, int) for value in values):
        raise argparse.ArgumentTypeError(f"expected widths, for example [25,15], got {values}")
    return tuple(values)


def widths_by_block(values: list | tuple) -> tuple[tuple[int, ...], ...]:
    """Widths of the message network of each block in one spelling, from numbers, lists, or one list of lists."""
    values = list(values)
    first = values[0] if len(values) == 1 else None
    if isinstance(first, (list, tuple)) and first and all(isinstance(block, (list, tuple)) for block in first):
        values = list(first)
    return tuple((block,) if isinstance(block, int) else _numbers(block) for block in values)


# -- losses and their weights ----------------------------------------------------------------------------------------


def are_weights(numbers: Collection[float]) -> bool:
    """Return whether a loss can be weighted with the numbers: finite, none negative and not all zero."""
    return all(math.isfinite(number) and number >= 0 for number in numbers) and any(numbers)


def loss_terms(text: str, names: Collection[str]) -> dict[str, float]:
    """Parse the terms of --loss: "m:0.05,3d:0.01" -> {"m": 0.05, "3d": 0.01}; a term without a weight has weight 1."""
    terms: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        if name not in names:
            raise argparse.ArgumentTypeError(f"expected terms of {', '.join(names)}, got {name!r}")
        if name in terms:
            raise argparse.ArgumentTypeError(f"{name}: expected each term once, got it twice in {text!r}")
        try:
            terms[name] = float(weight or 1)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name}: expected a number after the colon, got {weight!r}") from error
    if not are_weights(terms.values()):
        raise argparse.ArgumentTypeError(
            f"expected weights that are finite, not negative and not all zero, got {text!r}"
        )
    return terms


def class_weights(text: str, words: Collection[str]) -> list[float] | None:
    """Parse --class-weights: one of the words (None), or numbers separated by commas."""
    if text in words:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not are_weights(numbers):
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(map(repr, words))} or a weight for each class such as 1,2.5, got {text!r}"
        )
    return numbers


def class_numbers(text: str) -> list[int]:
    """Parse class numbers separated by commas, such as 0,8; none of an empty text."""
    try:
        numbers = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        numbers = [-1]
    if any(number < 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"expected class numbers separated by commas such as 0,8, got {text!r}")
    return numbers


def checked(parse: Callable, *arguments) -> Callable[[str], str]:
    """Return a type for a flag whose value stays the text, once parse(text, *arguments) has accepted it."""

    def check(text: str) -> str:
        parse(text, *arguments)
        return text

    return check
